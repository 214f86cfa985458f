package limit

import "time"

// WaitFor has the limiter wait that long for Redis before it counts alone.
func (l *Limiter) WaitFor(d time.Duration) { l.timeout = d }

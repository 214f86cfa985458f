package identity

import (
	"crypto/subtle"
	"sync"
	"time"
)

const (
	lockAfter = 5 // wrong passwords
	lockFor   = time.Minute
)

// lock checks passwords, and locks a person out for a while after too many wrong
// ones. It is safe for concurrent use.
type lock struct {
	mu    sync.Mutex
	wrong map[string]*attempts // by username, of people that exist
}

type attempts struct {
	count int
	until time.Time // locked until then
}

func newLock() *lock { return &lock{wrong: make(map[string]*attempts)} }

// authenticate returns the person of that name and password. Who is locked out is
// told nothing else than who has the wrong password.
func (l *lock) authenticate(username, password string) (Person, bool) {
	who, ok := personByUsername(username)
	if !ok {
		return Person{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.wrong[username]
	if a == nil {
		a = &attempts{}
		l.wrong[username] = a
	}
	if time.Now().Before(a.until) {
		return Person{}, false
	}
	if subtle.ConstantTimeCompare([]byte(password), []byte(who.Username)) != 1 {
		if a.count++; a.count >= lockAfter {
			*a = attempts{until: time.Now().Add(lockFor)}
		}
		return Person{}, false
	}
	delete(l.wrong, username)
	return who, true
}

package redis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"bookworm/internal/loopback"
)

// embedded is the in-process server with the file that holds its data.
type embedded struct {
	server *miniredis.Miniredis
	client *redis.Client
	log    *slog.Logger
	file   string
	saved  []byte // what the file holds

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// entry is one key in the file: a string or a hash.
type entry struct {
	Key     []byte     `json:"key"`
	Type    string     `json:"type"`
	Value   [][]byte   `json:"value"` // a string's one value, or a hash's fields and values in turn
	Expires *time.Time `json:"expires,omitempty"`
}

func startEmbedded(ctx context.Context, o Options) (*Server, error) {
	e := &embedded{
		server: miniredis.NewMiniRedis(),
		log:    o.Logger,
		file:   filepath.Join(o.DataDir, "miniredis.json"),
	}
	if err := e.load(); err != nil {
		return nil, fmt.Errorf("load %s: %w", e.file, err)
	}
	if err := e.server.StartAddr(loopback.HostPort(o.Port)); err != nil {
		return nil, err
	}
	e.client = newClient(e.server.Addr())
	// The server outlives the context of its start.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	e.done.Go(func() { e.keep(ctx) })
	return &Server{address: e.server.Addr(), kind: "miniredis", stop: sync.OnceValue(e.stop)}, nil
}

// stop saves what is left to save and ends the server.
func (e *embedded) stop() error {
	e.cancel()
	e.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := errors.Join(e.save(ctx), e.client.Close())
	e.server.Close()
	return err
}

// keep lets time pass, which miniredis leaves to its owner, and saves what
// changed every second.
func (e *embedded) keep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			e.server.FastForward(now.Sub(last))
			last = now
		}
		if err := e.save(ctx); err != nil && ctx.Err() == nil {
			e.log.Error("redis data was not saved", "error", err)
		}
	}
}

// dump returns all keys in one atomic step, so that a hash is never saved half
// changed.
var dump = redis.NewScript(`
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local type = redis.call('TYPE', key)
  if type.ok then type = type.ok end
  local value = {}
  if type == 'string' then value = {redis.call('GET', key)} end
  if type == 'hash' then value = redis.call('HGETALL', key) end
  table.insert(all, {key, type, redis.call('PTTL', key), value})
end
return all`)

func (e *embedded) save(ctx context.Context) error {
	reply, err := dump.Eval(ctx, e.client, nil).Slice()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	entries := make([]entry, 0, len(reply))
	for _, row := range reply {
		parsed, err := parse(row)
		if err != nil {
			return err
		}
		entries = append(entries, parsed)
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	if bytes.Equal(text, e.saved) {
		return nil
	}
	if err := write(e.file, text); err != nil {
		return err
	}
	e.saved = text
	return nil
}

// parse reads one row of dump's reply.
func parse(row any) (entry, error) {
	malformed := fmt.Errorf("dump returned %v", row)
	columns, ok := row.([]any)
	if !ok || len(columns) != 4 {
		return entry{}, malformed
	}
	key, ok1 := columns[0].(string)
	kind, ok2 := columns[1].(string)
	ttl, ok3 := columns[2].(int64)
	values, ok4 := columns[3].([]any)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return entry{}, malformed
	}
	if kind != "string" && kind != "hash" {
		return entry{}, fmt.Errorf("a %s cannot be saved by the in-process server, install Redis to use one", kind)
	}
	e := entry{Key: []byte(key), Type: kind}
	for _, v := range values {
		value, ok := v.(string)
		if !ok {
			return entry{}, malformed
		}
		e.Value = append(e.Value, []byte(value))
	}
	if ttl > 0 {
		// Rounded, or the same moment would be written anew at every save.
		expires := time.Now().Add(time.Duration(ttl) * time.Millisecond).Round(2 * time.Second).UTC()
		e.Expires = &expires
	}
	return e, nil
}

// write replaces a file in one step.
func write(path string, text []byte) error {
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // the folder is the caller's own
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// load reads the file into the server, leaving out what has expired.
func (e *embedded) load() error {
	text, err := os.ReadFile(e.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var entries []entry
	if err := json.Unmarshal(text, &entries); err != nil {
		return err
	}
	for _, saved := range entries {
		key := string(saved.Key)
		if saved.Expires != nil && !saved.Expires.After(time.Now()) {
			continue
		}
		switch {
		case saved.Type == "string" && len(saved.Value) == 1:
			if err := e.server.Set(key, string(saved.Value[0])); err != nil {
				return err
			}
		case saved.Type == "hash" && len(saved.Value) > 0 && len(saved.Value)%2 == 0:
			for i := 0; i < len(saved.Value); i += 2 {
				e.server.HSet(key, string(saved.Value[i]), string(saved.Value[i+1]))
			}
		default:
			return fmt.Errorf("%q is malformed", key)
		}
		if saved.Expires != nil {
			e.server.SetTTL(key, time.Until(*saved.Expires))
		}
	}
	e.saved = text
	return nil
}

// Package folder is the data folder of one embedded stack: who uses it, its
// secrets, its ports, and where its parts answer.
package folder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"bookworm/internal/loopback"
	"bookworm/internal/personal"
)

// Default is the folder when BOOKWORM_DATA does not name another.
const Default = ".bookworm"

// ErrInUse is returned by Open while another process uses the folder.
var ErrInUse = errors.New("the data folder is in use")

// Folder is an open data folder. It belongs to this process until Close.
type Folder struct {
	Path    string
	Secrets Secrets

	lock  *os.File
	ports map[string]int
}

// Secrets are made once for a folder and kept in it.
type Secrets struct {
	PersonalDataKey string `json:"personal_data_key"`
	WebhookSecret   string `json:"webhook_secret"`
	ServiceSecret   string `json:"service_secret"`
}

// Open takes the folder, making it where it is missing. Errors: ErrInUse.
func Open(path string) (*Folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	// Others may enter, because PostgreSQL refuses to be root and its data is in here;
	// what is secret has its own mode.
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // see above
		return nil, fmt.Errorf("data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the caller names the folder
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	// The kernel drops the lock with the process, also after a kill.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(ErrInUse, lock.Close())
	}
	f := &Folder{Path: path, lock: lock, ports: make(map[string]int)}
	// Addresses of a stack that was killed are nobody's.
	if err := errors.Join(f.Withdraw(), f.secrets(), f.read("ports.json", &f.ports)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close gives the folder up.
func (f *Folder) Close() error { return f.lock.Close() }

// Sub returns the path of a part's own folder.
func (f *Folder) Sub(part string) string { return filepath.Join(f.Path, part) }

func (f *Folder) secrets() error {
	if err := f.read("secrets.json", &f.Secrets); err != nil || f.Secrets != (Secrets{}) {
		return err
	}
	f.Secrets = Secrets{
		PersonalDataKey: string(personal.NewKey()),
		WebhookSecret:   "whsec_" + uuid.NewString(),
		ServiceSecret:   uuid.NewString(),
	}
	return f.write("secrets.json", f.Secrets)
}

// Port returns the port of a part: the one it had last time, else the preferred
// one, else a free one. What people have bookmarked stays where it is, and two
// stacks can run side by side.
func (f *Folder) Port(ctx context.Context, part string, preferred int) (int, error) {
	candidates := []int{preferred, 0} // 0 is any free port
	if last, ok := f.ports[part]; ok {
		candidates = []int{last, preferred, 0}
		delete(f.ports, part)
	}
	others := slices.Collect(maps.Values(f.ports))
	for _, port := range candidates {
		if slices.Contains(others, port) {
			continue
		}
		free, err := loopback.Port(ctx, port)
		for err == nil && slices.Contains(others, free) { // only one that is kept for another part
			free, err = loopback.Port(ctx, 0)
		}
		if err != nil {
			continue
		}
		f.ports[part] = free
		return free, f.write("ports.json", f.ports)
	}
	return 0, fmt.Errorf("no free port for %s", part)
}

// Addresses are where the parts of a stack answer, under the names that the env
// file gives them.
type Addresses map[string]string

// Publish writes the addresses for other programs, as NAME=value lines, and the
// id of this process as BOOKWORM_PID.
func (f *Folder) Publish(a Addresses) error {
	a = maps.Clone(a)
	a["BOOKWORM_PID"] = strconv.Itoa(os.Getpid())
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(a)) {
		fmt.Fprintf(&text, "%s=%s\n", name, a[name])
	}
	return f.replace("env", []byte(text.String()))
}

// Withdraw removes what Publish wrote.
func (f *Folder) Withdraw() error {
	if err := os.Remove(f.Sub("env")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("withdraw addresses: %w", err)
	}
	return nil
}

// ErrNotRunning is returned by Lookup when no stack has published its addresses.
var ErrNotRunning = errors.New("no stack runs here: start one with `make run`")

// Lookup returns the addresses of the stack that runs on the folder.
// Errors: ErrNotRunning.
func Lookup(path string) (Addresses, error) {
	text, err := os.ReadFile(filepath.Join(path, "env")) //nolint:gosec // the caller names the folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	a := make(Addresses)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			a[name] = value
		}
	}
	return a, nil
}

func (f *Folder) read(name string, v any) error {
	content, err := os.ReadFile(f.Sub(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(content, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func (f *Folder) write(name string, v any) error {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return f.replace(name, append(content, '\n'))
}

// replace writes a file whole or not at all.
func (f *Folder) replace(name string, content []byte) error {
	temporary := f.Sub(name + ".new")
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(temporary, f.Sub(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

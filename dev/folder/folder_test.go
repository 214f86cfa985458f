package folder

import (
	"errors"
	"net"
	"os"
	"strconv"
	"testing"

	"bookworm/internal/loopback"
)

func open(t *testing.T, path string) *Folder {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOneStackForEachFolder(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	first := open(t, path)
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Fatalf("a second stack got %v", err)
	}
	secrets := first.Secrets
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if second := open(t, path); second.Secrets != secrets || secrets.PersonalDataKey == "" {
		t.Error("the secrets did not survive")
	}
	if info, err := os.Stat(first.Sub("secrets.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secrets.json: %v, %v", info.Mode(), err)
	}
}

// TestFreePortIsNotAnotherParts has a part for which a port is kept that would be
// given out next.
func TestFreePortIsNotAnotherParts(t *testing.T) { //nolint:paralleltest // nobody else may ask for a port in between
	f := open(t, t.TempDir())
	last, err := loopback.Port(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	f.ports["kept"] = last + 1
	taken, err := loopback.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if port, err := f.Port(t.Context(), "new", taken.Addr().(*net.TCPAddr).Port); err != nil || port == last+1 {
		t.Errorf("got port %d, %v, which is kept for another part", port, err)
	}
}

func TestPortsStayAndAvoidTakenOnes(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	taken, err := loopback.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, text, _ := net.SplitHostPort(taken.Addr().String())
	busy, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	port, err := f.Port(t.Context(), "gateway", busy)
	if err != nil || port == busy || port == 0 {
		t.Fatalf("got port %d, %v", port, err)
	}
	other, err := f.Port(t.Context(), "api", port)
	if err != nil || other == port {
		t.Errorf("two parts got port %d, %v", port, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := open(t, path).Port(t.Context(), "gateway", busy); err != nil || again != port {
		t.Errorf("got port %d after a restart, not %d: %v", again, port, err)
	}
}

func TestPublishedAddressesAreFound(t *testing.T) {
	t.Parallel()
	f := open(t, t.TempDir())
	if _, err := Lookup(f.Path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
	if err := f.Publish(Addresses{"BOOKWORM_GATEWAY_URL": "http://127.0.0.1:1", "B": "x=y"}); err != nil {
		t.Fatal(err)
	}
	if a, err := Lookup(f.Path); err != nil || a["BOOKWORM_GATEWAY_URL"] != "http://127.0.0.1:1" || a["B"] != "x=y" {
		t.Errorf("got %v, %v", a, err)
	}
	if err := errors.Join(f.Withdraw(), f.Withdraw()); err != nil {
		t.Error(err)
	}
}

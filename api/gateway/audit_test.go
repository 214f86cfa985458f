package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestAuditLogIsExportedAsEvents reads the log, goes on after an entry, and sees an
// error in the middle.
func TestAuditLogIsExportedAsEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, c := range map[string]struct {
		path, seen string // Last-Event-ID
		want       string
	}{
		"all":             {"", "", "1:entry 2:entry 3:entry"},
		"after an entry":  {"?after_sequence=2", "", "3:entry"},
		"after what came": {"?after_sequence=1", "2", "3:entry"},
		"an error":        {"?after_sequence=1", "", "2:entry 3:entry :error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			headers := b.as("reader", "reporter")
			if c.seen != "" {
				headers = append(headers, "Last-Event-ID", c.seen)
			}
			response, from := b.open(t, http.DefaultClient, http.MethodGet, "/api/v1/audit/entries:export"+c.path, "", headers...)
			defer response.Body.Close()
			if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != "text/event-stream" {
				t.Fatalf("got %d %s", response.StatusCode, got)
			}
			var got []string
			for f, err := readFrame(t, from); err == nil; f, err = readFrame(t, from) {
				got = append(got, f.id+":"+f.kind)
				entry, _ := f.data["entry"].(map[string]any)
				if f.kind == "entry" && (entry["actor"] != "ops" || fmt.Sprint(entry["sequence"]) != f.id) {
					t.Errorf("the entry is %v", f.data)
				}
				if f.kind == "error" && (f.data["reason"] != "UNAVAILABLE" || f.data["message"] != "Wait.") {
					t.Errorf("the error is %v", f.data)
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

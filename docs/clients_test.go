package docs_test

import (
	"encoding/json"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestClientsHaveWhatPeopleMayCall looks at both clients, generated and by hand: each
// service that people may call is there, and nothing is of those for services.
func TestClientsHaveWhatPeopleMayCall(t *testing.T) {
	t.Parallel()
	golang, typescript := folder(t, "../api/client/go"), folder(t, "../api/client/typescript/src")
	for _, service := range services() {
		name := string(service.Name())
		if internal(service) {
			if strings.Contains(golang+typescript, name) {
				t.Errorf("a client knows of %s, which only the shop's own services call", name)
			}
			continue
		}
		if !strings.Contains(golang, "connect.New"+name+"Client(c)") {
			t.Errorf("the Go client has no %s", name)
		}
		if !strings.Contains(typescript, "createClient("+name+", transport)") {
			t.Errorf("the TypeScript client has no %s", name)
		}
	}
}

// folder returns all source files of a folder in one text.
func folder(t *testing.T, root string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); ext == ".go" || ext == ".ts" {
			all.WriteString(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// packages returns what a package.json requires.
func packages(t *testing.T, file string) []string {
	t.Helper()
	var required struct {
		Dependencies    map[string]string `json:"dependencies"`
		DevDependencies map[string]string `json:"devDependencies"`
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join(root, file))), &required); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, of := range []map[string]string{required.Dependencies, required.DevDependencies} {
		for name := range of {
			names = append(names, name)
		}
	}
	return names
}

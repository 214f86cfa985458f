package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// clients is where the clients for those outside the shop live.
const clients = "../../api/client"

func TestQuickStartGo(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "quickstart")
	// A program of its own: the client registers the contract under the same names.
	command(t, filepath.Join(clients, "go"), nil, "go", "build", "-o", binary, "./examples/quickstart")
	v := enter(t)
	v.quickStart(command(t, ".", v.environ(), binary))
}

func TestQuickStartTypeScript(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("the TypeScript client needs Node.js 20 or later, and there is no node on this machine")
	}
	// A copy, so that what npm installs is what the lock file says and nothing stays.
	folder := t.TempDir()
	for _, part := range []string{"src", "examples"} {
		if err := os.CopyFS(filepath.Join(folder, part), os.DirFS(filepath.Join(clients, "typescript", part))); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"package.json", "package-lock.json", "tsconfig.json"} {
		content, err := os.ReadFile(filepath.Join(clients, "typescript", file))
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, file), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	command(t, folder, nil, "npm", "ci", "--no-audit", "--no-fund", "--prefer-offline")
	command(t, folder, nil, "npm", "run", "--silent", "build") // checks the types
	v := enter(t)
	v.quickStart(command(t, folder, v.environ(), "node", "dist/examples/quickstart.js"))
}

// environ is what a quick start wants to know.
func (v *visit) environ() []string {
	return []string{"BOOKWORM_GATEWAY_URL=" + v.Gateway, "BOOKWORM_TOKEN=" + v.Token}
}

// command runs a program in a folder and returns what it prints.
func command(t *testing.T, folder string, environ []string, name string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience) // npm and the compilers take their time
	defer cancel()
	c := exec.CommandContext(ctx, name, arguments...)
	c.Dir = folder
	c.Env = append(os.Environ(), environ...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, out)
	}
	return string(out)
}

// quickStart checks what a quick start printed against what the shop knows of it.
func (v *visit) quickStart(out string) {
	v.t.Helper()
	said := regexp.MustCompile(`(?m)^order    (\S+) is CONFIRMED$`).FindStringSubmatch(out)
	if said == nil {
		v.t.Fatalf("no order was confirmed:\n%s", out)
	}
	if _, err := uuid.Parse(said[1]); err != nil {
		v.t.Errorf("the order's id is %q", said[1])
	}
	order, err := v.Order(v.ctx, said[1])
	if err != nil || len(order.GetLines()) != 1 || order.GetLines()[0].GetQuantity() != 1 {
		v.t.Fatalf("the shop has %v, %v", order, err)
	}
	for _, want := range []string{
		`(?m)^found    "` + regexp.QuoteMeta(order.GetLines()[0].GetTitle()) + `" by .*\d\.\d\d$`,
		`(?m)^basket   1 book, .*\d\.\d\d$`,
		`(?m)^refused  INVALID_ARGUMENT: country_code .+$`,
		`(?m)^order    ` + said[1] + ` is PLACED$`,
		`(?m)^answer   .*\S`,
		`(?m)^source   \[1\] \S`,
		`(?m)^done     ANSWERED$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			v.t.Errorf("the quick start does not say %s", want)
		}
	}
}

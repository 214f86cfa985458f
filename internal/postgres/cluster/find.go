package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// oldest is the oldest major version the shop's SQL runs on.
const oldest = 15

// Find returns the folder with the programs of PostgreSQL 15 or newer: the one
// that BOOKWORM_POSTGRES_BIN names, else the one in PATH, else the newest among
// the usual places of Debian, Homebrew and Postgres.app. The error says in one
// line what to install.
func Find() (binDir string, err error) {
	return find(context.Background(), "")
}

// find prefers the version that made the existing data, if any.
func find(ctx context.Context, made string) (string, error) {
	if dir := os.Getenv("BOOKWORM_POSTGRES_BIN"); dir != "" {
		if major(ctx, dir) < oldest {
			return "", fmt.Errorf("BOOKWORM_POSTGRES_BIN=%s does not hold initdb and postgres of version %d or newer", dir, oldest)
		}
		return dir, nil
	}
	var found string
	for _, dir := range candidates() {
		version := major(ctx, dir)
		if version < oldest {
			continue
		}
		if made == "" || strconv.Itoa(version) == made {
			return dir, nil
		}
		if found == "" {
			found = dir
		}
	}
	if found != "" {
		return "", fmt.Errorf("the data was made by PostgreSQL %s, which is not installed any more (%s is)", made, found)
	}
	return "", errors.New(installHint())
}

func candidates() []string {
	var dirs []string
	if program, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(program))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin",
		"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			continue // only a malformed pattern does this
		}
		slices.Reverse(matches) // versions have two digits: newest first
		dirs = append(dirs, matches...)
	}
	return dirs
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// major returns the major version of the programs in a folder, 0 if they are
// not there.
func major(ctx context.Context, dir string) int {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil { //nolint:gosec // whoever sets the environment may name any folder
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, server), "--version").Output() //nolint:gosec // a known place
	if err != nil {
		return 0
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return 0
	}
	version, err := strconv.Atoi(string(match[1]))
	if err != nil {
		return 0
	}
	return version
}

func installHint() string {
	const missing = "PostgreSQL 15 or newer is not installed: "
	if runtime.GOOS == "darwin" {
		return missing + "run `brew install postgresql@17`"
	}
	return missing + "run `apt-get install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora)" +
		" or `apk add postgresql` (Alpine), or name its folder in BOOKWORM_POSTGRES_BIN"
}

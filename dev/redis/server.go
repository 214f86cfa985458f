// Package redis runs a Redis for the embedded stack: the real server when it is
// installed, else an in-process one that speaks the same protocol and keeps its
// data in a file.
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
)

// oldest is the oldest major version of Redis that the shop supports.
const oldest = 7

// Options says where a Server keeps its data and listens.
type Options struct {
	// DataDir is created if missing.
	DataDir string
	// Port to listen on, on 127.0.0.1; 0 takes a free one.
	Port int
	// Logger receives what goes wrong while the server runs; nil drops it.
	Logger *slog.Logger
}

// Server is a running Redis. What it acknowledged more than a second ago
// survives a kill. Its methods may be called concurrently.
type Server struct {
	address string
	kind    string
	stop    func() error // safe to call twice
}

// Start runs a server on the data of the folder and returns once it answers.
// The context bounds the start only; call Stop to end the server. On Linux a
// real server also ends, cleanly, when this process dies.
//
// The real and the in-process server keep different files: installing Redis
// later starts with an empty one.
func Start(ctx context.Context, o Options) (*Server, error) {
	program, version := find(ctx)
	s, err := start(ctx, o, program, version)
	if err != nil {
		return nil, fmt.Errorf("start redis: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options, program, version string) (*Server, error) {
	if o.DataDir == "" {
		return nil, errors.New("no data folder given")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return nil, err
	}
	o.DataDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	var s *Server
	if program == "" {
		s, err = startEmbedded(ctx, o)
	} else {
		s, err = startReal(ctx, o, program, version)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	stop := s.stop
	s.stop = func() error {
		defer unlock()
		return stop()
	}
	return s, nil
}

// Address returns the server's host:port.
func (s *Server) Address() string { return s.address }

// Kind says what runs: "redis 7.0.15" or "miniredis".
func (s *Server) Kind() string { return s.kind }

// Stop saves the data and ends the server. Stopping again returns the first
// outcome.
func (s *Server) Stop() error {
	if err := s.stop(); err != nil {
		return fmt.Errorf("stop redis: %w", err)
	}
	return nil
}

var versionPattern = regexp.MustCompile(`v=((\d+)\.[0-9.]+)`)

// find returns the installed server and its version, or "" if there is none
// that is new enough.
func find(ctx context.Context) (program, version string) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		program, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, program, "--version").Output() //nolint:gosec // found in PATH
		if err != nil {
			continue
		}
		match := versionPattern.FindSubmatch(out)
		if match == nil {
			continue
		}
		if major, err := strconv.Atoi(string(match[2])); err == nil && major >= oldest {
			return program, string(match[1])
		}
	}
	return "", ""
}

// lock makes this process the only one to use a folder.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the folder is the caller's own
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another process", filepath.Dir(path))
		}
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

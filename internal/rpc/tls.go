package rpc

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookAgain is how often at most the files of a certificate are looked at.
const lookAgain = time.Second

// LoadTLS returns a configuration for TLS 1.3 with the certificate in two PEM
// files, as cert-manager mounts them. When the files change, new connections get
// the new certificate; one that cannot be loaded is logged and the old one stays.
// A nil logger is slog's default.
func LoadTLS(certFile, keyFile string, logger *slog.Logger) (*tls.Config, error) {
	if logger == nil {
		logger = slog.Default()
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	if err := c.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}, nil
}

// certificate is a pair of files, and what was in them.
type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu     sync.Mutex
	pair   *tls.Certificate
	files  [2]os.FileInfo
	looked time.Time
}

func (c *certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookAgain {
		return c.pair
	}
	if changed, err := c.changed(); err == nil && !changed {
		c.looked = time.Now()
		return c.pair
	}
	if err := c.load(); err != nil {
		c.logger.Error("the certificate was not reloaded", "error", err)
	} else {
		c.logger.Info("certificate reloaded")
	}
	return c.pair
}

func (c *certificate) changed() (bool, error) {
	now, err := c.stat()
	if err != nil {
		return false, err
	}
	for i, before := range c.files {
		if before == nil || !os.SameFile(before, now[i]) || !before.ModTime().Equal(now[i].ModTime()) || before.Size() != now[i].Size() {
			return true, nil
		}
	}
	return false, nil
}

func (c *certificate) stat() (files [2]os.FileInfo, err error) {
	var errs [2]error
	files[0], errs[0] = os.Stat(c.certFile)
	files[1], errs[1] = os.Stat(c.keyFile)
	return files, errors.Join(errs[:]...)
}

// load reads the files. They may change meanwhile, so they are looked at before:
// what is read may be newer than what was seen, and never older.
func (c *certificate) load() error {
	c.looked = time.Now()
	files, err := c.stat()
	if err != nil {
		return fmt.Errorf("look at the certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load the certificate: %w", err)
	}
	c.pair, c.files = &pair, files
	return nil
}

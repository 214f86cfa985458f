package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/loopback"
)

const (
	maxMessage    = 10 << 20 // bytes
	maxRecipients = 100
	maxBody       = 1 << 20 // bytes of a request to the web side
)

// Options configure a Server. The zero value of each field but DataDir works.
type Options struct {
	// DataDir is the folder that keeps the messages; it is created when missing.
	DataDir string
	// Port of the web inbox at 127.0.0.1; 0 picks a free one.
	Port int
	// SMTPPort to receive mail on at 127.0.0.1; 0 picks a free one.
	SMTPPort int
	// Logger gets failures, without addresses. It defaults to slog.Default.
	Logger *slog.Logger
}

// Server is a running inbox. Its methods are safe for concurrent use.
type Server struct {
	log     *slog.Logger
	url     string
	address string
	store   *store
	faults  faults

	http     *http.Server
	smtp     *smtp.Server
	lifetime context.Context //nolint:containedctx // go-smtp's sessions get none
	cancel   context.CancelFunc
	group    *errgroup.Group
	stop     sync.Once
}

// Start loads the messages kept in opts.DataDir and serves until Stop. ctx
// bounds the start alone: cancelling it later has no effect.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.DataDir == "" {
		return nil, errors.New("inbox: DataDir is empty")
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	store, err := openStore(opts.DataDir)
	if err != nil {
		return nil, fmt.Errorf("open messages: %w", err)
	}
	web, err := loopback.Listen(ctx, opts.Port)
	if err != nil {
		return nil, fmt.Errorf("listen for readers: %w", err)
	}
	mail, err := loopback.Listen(ctx, opts.SMTPPort)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for mail: %w", err), web.Close())
	}
	s := &Server{
		log: opts.Logger.With("part", "inbox"), store: store,
		url: "http://" + web.Addr().String(), address: mail.Addr().String(),
	}
	s.lifetime, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.smtp = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{server: s, conn: c}, nil
	}))
	s.smtp.Domain = "inbox.localhost"
	s.smtp.MaxMessageBytes = maxMessage
	s.smtp.MaxRecipients = maxRecipients
	s.smtp.AllowInsecureAuth = true // on loopback only
	s.smtp.EnableSMTPUTF8 = true
	s.smtp.ReadTimeout, s.smtp.WriteTimeout = time.Minute, time.Minute
	s.smtp.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	s.group = &errgroup.Group{}
	s.group.Go(func() error { return s.http.Serve(web) })
	s.group.Go(func() error { return s.smtp.Serve(mail) })
	return s, nil
}

// URL is the address of the web inbox, without a trailing slash.
func (s *Server) URL() string { return s.url }

// SMTPAddress is the host:port that takes mail.
func (s *Server) SMTPAddress() string { return s.address }

// Stop ends the server and waits for its goroutines. Further calls do nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.cancel() // wakes slow deliveries
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			err = errors.Join(err, s.http.Close())
			s.log.Warn("inbox stopped with open connections", "error", err)
		}
		// A sender may keep its connection open for the next message: no one waits for that.
		if err := s.smtp.Close(); err != nil {
			s.log.Warn("close mail server", "error", err)
		}
		err := s.group.Wait()
		if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, smtp.ErrServerClosed) {
			s.log.Error("serve inbox", "error", err)
		}
	})
}

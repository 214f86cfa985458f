package qdrant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"bookworm/internal/loopback"
)

const (
	// version is that of the protocol spoken here.
	version = "1.17.1"
	// maxRequest is Qdrant's own default, in bytes.
	maxRequest = 32 << 20
	// stopPatience is how long Stop waits for calls that are being answered.
	stopPatience = 500 * time.Millisecond
	// minPing is the shortest pause between pings that a client is not cut off for.
	// Qdrant's clients ping every 10 seconds, gRPC allows one in 5 minutes.
	minPing = 5 * time.Second
)

// Options configure a Server. The zero value of each field but DataDir works.
type Options struct {
	// DataDir is the folder that keeps the collections; it is created when missing.
	DataDir string
	// Port of the gRPC side at 127.0.0.1; 0 picks a free one.
	Port int
	// Logger gets failures, without payloads. It defaults to slog.Default.
	Logger *slog.Logger
}

// Server is a running server. Its methods are safe for concurrent use.
type Server struct {
	log     *slog.Logger
	address string
	catalog *catalog
	grpc    *grpc.Server
	group   *errgroup.Group
	stop    sync.Once
}

// Start loads the collections kept in opts.DataDir and serves until Stop. ctx
// bounds the start alone: cancelling it later has no effect.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.DataDir == "" {
		return nil, errors.New("qdrant: DataDir is empty")
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	cat, err := openCatalog(opts.DataDir)
	if err != nil {
		return nil, fmt.Errorf("open collections: %w", err)
	}
	listener, err := loopback.Listen(ctx, opts.Port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), cat.close())
	}
	s := &Server{
		log: opts.Logger.With("part", "qdrant"), address: listener.Addr().String(), catalog: cat,
		grpc: grpc.NewServer(
			grpc.MaxRecvMsgSize(maxRequest),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		),
		group: &errgroup.Group{},
	}
	qdrant.RegisterQdrantServer(s.grpc, health{})
	qdrant.RegisterCollectionsServer(s.grpc, &collections{catalog: cat})
	qdrant.RegisterPointsServer(s.grpc, &points{catalog: cat})
	s.group.Go(func() error { return s.grpc.Serve(listener) })
	return s, nil
}

// Address is the host:port of the gRPC side.
func (s *Server) Address() string { return s.address }

// Stop ends the server, waits for its goroutines and closes the data file. Further
// calls do nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		impatient := time.AfterFunc(stopPatience, s.grpc.Stop)
		s.grpc.GracefulStop()
		impatient.Stop()
		if err := s.group.Wait(); err != nil {
			s.log.Error("serve qdrant", "error", err)
		}
		if err := s.catalog.close(); err != nil {
			s.log.Error("close collections", "error", err)
		}
	})
}

type health struct {
	qdrant.UnimplementedQdrantServer
}

func (health) HealthCheck(context.Context, *qdrant.HealthCheckRequest) (*qdrant.HealthCheckReply, error) {
	return &qdrant.HealthCheckReply{Title: "bookworm's stand-in for Qdrant", Version: version}, nil
}

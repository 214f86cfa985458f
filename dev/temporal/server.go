// Package temporal runs a real Temporal server and its Web UI inside the
// current process, on loopback, with all state in one SQLite file.
//
// It is what the shop runs on when nothing else is installed; production talks
// to a cluster. Nothing in here replaces or shortens what the server does: the
// settings only fit it to one host with a handful of workers.
package temporal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/primitives"
	sqliteschema "go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"bookworm/internal/loopback"
)

const (
	clusterName = "bookworm"
	// retention is how long a closed workflow and its history can be looked at.
	retention = 72 * time.Hour
)

// Options says where a Server keeps its data and listens. A zero port is
// replaced by a free one.
type Options struct {
	// DataDir holds the database and is created if missing. Two servers must
	// not share it at the same time.
	DataDir string
	// FrontendPort serves gRPC to clients and workers.
	FrontendPort int
	// HTTPPort serves the server's HTTP API, which Nexus needs.
	HTTPPort int
	// UIPort serves the Web UI.
	UIPort int
	// MetricsPort serves the server's own metrics.
	MetricsPort int
	// Namespace is created on first start; "default" if empty.
	Namespace string
	// SearchAttributes are registered in the namespace and usable at once when
	// Start returns. Those added later through the operator service work too, but
	// only after the server's caches refreshed, about a second; until then an
	// upsert fails its workflow task, and with it a waiting update.
	SearchAttributes map[string]enums.IndexedValueType
	// CodecEndpoint is the URL that the Web UI asks to decode payloads, if any.
	CodecEndpoint string
	// Logger receives the server's warnings and errors; nil drops them.
	Logger *slog.Logger
}

// Server is a running Temporal server. Its methods may be called concurrently.
type Server struct {
	server  temporal.Server
	ui      *uiserver.Server
	uiDone  chan struct{}
	log     *serverLog
	address string
	uiURL   string
	metrics string
	stop    sync.Once
}

// Start runs a server and returns once it serves requests in the namespace and
// the Web UI answers. The context bounds the start only; call Stop to end the
// server.
//
// The data survives a kill of the process at any moment: every acknowledged
// write is in the write-ahead log, which the next start replays. A power cut may
// lose the last writes (the log is not forced to disk at each commit), never
// the consistency of the file.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.DataDir == "" {
		return nil, errors.New("start temporal: no data folder given")
	}
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ports, err := choosePorts(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("choose temporal's ports: %w", err)
	}
	store := sqlStore(filepath.Join(o.DataDir, "temporal.db"))
	if err := prepareStore(o, store); err != nil {
		return nil, fmt.Errorf("prepare temporal's database: %w", err)
	}

	s := &Server{
		log:     newServerLog(o.Logger),
		address: loopback.HostPort(ports.frontend),
		uiURL:   "http://" + loopback.HostPort(ports.ui),
		metrics: "http://" + loopback.HostPort(ports.metrics) + "/metrics",
	}
	if err := s.startServer(serverConfig(ports, store)); err != nil {
		return nil, fmt.Errorf("start temporal: %w", err)
	}
	s.startUI(o, ports)
	if err := s.awaitReady(ctx, o); err != nil {
		s.Stop()
		return nil, fmt.Errorf("wait for temporal: %w", err)
	}
	return s, nil
}

// Address returns the host:port at which clients and workers connect.
func (s *Server) Address() string { return s.address }

// UIURL returns the address of the Web UI.
func (s *Server) UIURL() string { return s.uiURL }

// MetricsURL returns the Prometheus endpoint with the server's own metrics,
// such as persistence_requests by operation.
func (s *Server) MetricsURL() string { return s.metrics }

// Stop ends the Web UI and the server and waits for both. Stopping again does
// nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		// Services complain about each other's absence while they go down.
		s.log.mute()
		if s.ui != nil {
			s.ui.Stop()
			<-s.uiDone
		}
		_ = s.server.Stop() // nothing is left to do about a failure, and a kill would have been as good
	})
}

// startServer turns a fatal log of the server, its way to report that a port is
// taken, into an error.
func (s *Server) startServer(conf *config.Config) (err error) {
	defer func() {
		if r := recover(); r != nil {
			fatal, ok := r.(fatalError)
			if !ok {
				panic(r)
			}
			err = fatal.error
		}
	}()
	hosts := make(map[primitives.ServiceName]static.Hosts)
	for name, service := range conf.Services {
		hosts[primitives.ServiceName(name)] = static.SingleLocalHost(loopback.HostPort(service.RPC.GRPCPort))
	}
	s.server, err = temporal.NewServer(
		temporal.WithConfig(conf),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(s.log),
		temporal.WithDynamicConfigClient(dynamicConfig()),
	)
	if err != nil {
		return err
	}
	return s.server.Start()
}

func (s *Server) startUI(o Options, p ports) {
	s.ui = uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		TemporalGRPCAddress: s.address,
		Host:                loopback.Host,
		Port:                p.ui,
		EnableUI:            true,
		DefaultNamespace:    o.Namespace,
		DisableNewsFetch:    true,
		Codec:               uiconfig.Codec{Endpoint: o.CodecEndpoint},
		CORS:                uiconfig.CORS{CookieInsecure: true}, // loopback has no TLS
		HideLogs:            true,
	}))
	s.uiDone = make(chan struct{})
	go func() {
		defer close(s.uiDone)
		if err := s.ui.Start(); err != nil {
			o.Logger.Error("temporal web ui ended", "error", err)
		}
	}()
}

// awaitReady returns when the frontend serves, knows the namespace with its
// search attributes and the Web UI answers.
func (s *Server) awaitReady(ctx context.Context, o Options) error {
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()

	checks := []func(context.Context) error{
		func(ctx context.Context) error {
			reply, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{
				Service: workflowservice.WorkflowService_ServiceDesc.ServiceName,
			})
			if err == nil && reply.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
				err = fmt.Errorf("frontend is %s", reply.GetStatus())
			}
			return err
		},
		func(ctx context.Context) error {
			_, err := workflowservice.NewWorkflowServiceClient(conn).DescribeNamespace(ctx,
				&workflowservice.DescribeNamespaceRequest{Namespace: o.Namespace})
			return err
		},
		func(ctx context.Context) error { return getOK(ctx, s.uiURL+"/healthz") },
	}
	for _, check := range checks {
		if err := retry(ctx, check); err != nil {
			return err
		}
	}
	return addSearchAttributes(ctx, operatorservice.NewOperatorServiceClient(conn), o)
}

// addSearchAttributes registers what a namespace from an earlier start lacks.
func addSearchAttributes(ctx context.Context, operator operatorservice.OperatorServiceClient, o Options) error {
	known, err := operator.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: o.Namespace})
	if err != nil {
		return err
	}
	missing := maps.Clone(o.SearchAttributes)
	maps.DeleteFunc(missing, func(name string, _ enums.IndexedValueType) bool {
		_, ok := known.GetCustomAttributes()[name]
		return ok
	})
	if len(missing) == 0 {
		return nil
	}
	_, err = operator.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace:        o.Namespace,
		SearchAttributes: missing,
	})
	if err != nil {
		return err
	}
	// Each service has its own cache and none tells when it has refreshed it.
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * cacheRefresh):
		return nil
	}
}

// retry repeats a check until it passes or the context ends, in which case it
// returns the check's last error too.
func retry(ctx context.Context, check func(context.Context) error) error {
	const pause = 20 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-timer.C:
		}
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		last = check(attempt)
		cancel()
		if last == nil {
			return nil
		}
		timer.Reset(pause)
	}
}

func getOK(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// prepareStore creates the schema and the namespace when they are missing.
//
// A file written last, "schema.version", says that the schema is whole: a
// database without it was cut short while it was made, holds nothing yet and is
// made again.
func prepareStore(o Options, store *config.SQL) error {
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return err
	}
	const version = sqliteschema.Version + " " + sqliteschema.VisibilityVersion + "\n"
	marker := filepath.Join(o.DataDir, "schema.version")
	found, err := os.ReadFile(marker) //nolint:gosec // the folder is the caller's own
	switch {
	case err == nil && string(found) != version:
		return fmt.Errorf("%s was made by another version of the server (schema %q, want %q): remove the folder to start afresh",
			o.DataDir, found, version)
	case errors.Is(err, os.ErrNotExist):
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(store.DatabaseName + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if err := sqliteschema.SetupSchema(store); err != nil {
			return err
		}
		if err := os.WriteFile(marker, []byte(version), 0o600); err != nil {
			return err
		}
	case err != nil:
		return err
	}

	namespace, err := sqliteschema.NewNamespaceConfig(clusterName, o.Namespace, false, o.SearchAttributes)
	if err != nil {
		return err
	}
	namespace.Detail.Config.Retention = durationpb.New(retention)
	return sqliteschema.CreateNamespaces(store, namespace)
}

type ports struct {
	frontend, http, history, matching, worker, ui, metrics int
}

// choosePorts checks that the ports asked for are free and replaces zeros.
func choosePorts(ctx context.Context, o Options) (ports, error) {
	p := ports{frontend: o.FrontendPort, http: o.HTTPPort, ui: o.UIPort, metrics: o.MetricsPort}
	for _, port := range []*int{&p.frontend, &p.http, &p.ui, &p.metrics, &p.history, &p.matching, &p.worker} {
		var err error
		if *port, err = loopback.Port(ctx, *port); err != nil {
			return ports{}, err
		}
	}
	return p, nil
}

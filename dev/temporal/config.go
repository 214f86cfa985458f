package temporal

import (
	"time"

	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/metrics"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"

	"bookworm/internal/loopback"
)

const (
	storeName = "sqlite"
	// cacheRefresh is how often each service looks for changed namespaces, of
	// which a new search attribute is one.
	cacheRefresh = 500 * time.Millisecond
)

// sqlStore describes the database file. The write-ahead log with one sync per
// checkpoint makes a commit some eight times cheaper than the default rollback
// journal, and survives a kill just the same. The log is checkpointed every 16 MB
// and not every 4: a checkpoint writes and syncs inside of somebody's commit, and
// an order writes several hundred pages.
func sqlStore(file string) *config.SQL {
	return &config.SQL{
		PluginName:   sqlite.PluginName,
		DatabaseName: file,
		ConnectAttributes: map[string]string{
			"mode":               "rwc",
			"journal_mode":       "wal",
			"synchronous":        "1",
			"wal_autocheckpoint": "4000", // pages of 4 KiB
			"busy_timeout":       "5000", // milliseconds; for whoever looks into the file with another tool
		},
	}
}

// serverConfig returns the static configuration: four services in one process,
// one history shard, everything on loopback.
func serverConfig(p ports, store *config.SQL) *config.Config {
	service := func(port int) config.Service {
		return config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: loopback.Host}}
	}
	frontend := service(p.frontend)
	frontend.RPC.HTTPPort = p.http

	return &config.Config{
		Global: config.Global{
			Membership: config.Membership{MaxJoinDuration: 10 * time.Second, BroadcastAddress: loopback.Host},
			Metrics: &metrics.Config{Prometheus: &metrics.PrometheusConfig{
				ListenAddress: loopback.HostPort(p.metrics),
				HandlerPath:   "/metrics",
			}},
		},
		Persistence: config.Persistence{
			DefaultStore:     storeName,
			VisibilityStore:  storeName,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{storeName: {SQL: store}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {
					Enabled:                true,
					InitialFailoverVersion: 1,
					RPCAddress:             loopback.HostPort(p.frontend),
					HTTPAddress:            loopback.HostPort(p.http), // Nexus completions go here
				},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services: map[string]config.Service{
			"frontend": frontend,
			"history":  service(p.history),
			"matching": service(p.matching),
			"worker":   service(p.worker),
		},
		Archival: config.Archival{
			History:    config.HistoryArchival{State: config.ArchivalDisabled},
			Visibility: config.VisibilityArchival{State: config.ArchivalDisabled},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: config.ArchivalDisabled},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: config.ArchivalDisabled},
		}},
		PublicClient: config.PublicClient{HostPort: loopback.HostPort(p.frontend), HTTPHostPort: loopback.HostPort(p.http)},
	}
}

// dynamicConfig returns the settings that differ from the server's defaults,
// which are meant for thousands of shards on many hosts.
func dynamicConfig() dynamicconfig.Client {
	const (
		// pollRPS bounds how often the one shard looks for new tasks in a
		// queue. The default of 20 makes each hop wait up to 50 ms.
		pollRPS = 2000
		mebi    = 1 << 20
	)
	return dynamicconfig.StaticClient{
		dynamicconfig.TransferProcessorMaxPollRPS.Key():   pollRPS,
		dynamicconfig.TimerProcessorMaxPollRPS.Key():      pollRPS,
		dynamicconfig.VisibilityProcessorMaxPollRPS.Key(): pollRPS,
		dynamicconfig.OutboundProcessorMaxPollRPS.Key():   pollRPS,

		// With several partitions a task and a poller may meet in none of them.
		dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():  1,
		dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(): 1,

		// A waiter that missed its notification looks again after this time.
		dynamicconfig.HistoryLongPollExpirationInterval.Key(): 2 * time.Second,

		// The backlog gauges otherwise appear after a minute.
		dynamicconfig.MatchingBacklogMetricsEmitInterval.Key(): 5 * time.Second,

		dynamicconfig.NamespaceCacheRefreshInterval.Key(): cacheRefresh,

		// What callers need; stated because the shop depends on them.
		dynamicconfig.EnableDeploymentVersions.Key():              true,
		dynamicconfig.FrontendEnableUpdateWorkflowExecution.Key(): true,

		// Memory: a few hundred live workflows are enough to keep.
		dynamicconfig.HistoryCacheHostLevelMaxSize.Key():     512,
		dynamicconfig.EventsHostLevelCacheMaxSizeBytes.Key(): 8 * mebi,

		// Housekeeping for stores far larger than one file on a desk.
		dynamicconfig.TaskQueueScannerEnabled.Key(): false,
		dynamicconfig.HistoryScannerEnabled.Key():   false,

		// The stack talks to nobody outside this host.
		dynamicconfig.EnableServerVersionCheck.Key(): false,
	}
}

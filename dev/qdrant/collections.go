package qdrant

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// collections answers the Collections service.
type collections struct {
	qdrant.UnimplementedCollectionsServer

	catalog *catalog
}

// Qdrant's limits.
const (
	maxName      = 255
	maxDimension = 65536
)

// Create takes settings that say how fast a search is, and refuses those that say
// what it finds and are not known here.
func (s *collections) Create(_ context.Context, r *qdrant.CreateCollection) (*qdrant.CollectionOperationResponse, error) {
	start := time.Now()
	err := only(r, "collection_name", "vectors_config", "sparse_vectors_config", "timeout",
		"hnsw_config", "wal_config", "optimizers_config", "shard_number", "on_disk_payload", "replication_factor", "write_consistency_factor")
	if err != nil {
		return nil, err
	}
	if err := checkName(r.GetCollectionName()); err != nil {
		return nil, err
	}
	if err := checkLayout(r); err != nil {
		return nil, err
	}
	info := &qdrant.CollectionInfo{Config: &qdrant.CollectionConfig{
		Params: &qdrant.CollectionParams{
			ShardNumber: 1, OnDiskPayload: r.GetOnDiskPayload(),
			VectorsConfig: r.GetVectorsConfig(), SparseVectorsConfig: r.GetSparseVectorsConfig(),
		},
		HnswConfig: r.GetHnswConfig(), OptimizerConfig: r.GetOptimizersConfig(), WalConfig: r.GetWalConfig(),
	}}
	if err := s.catalog.create(r.GetCollectionName(), info); err != nil {
		return nil, err
	}
	return &qdrant.CollectionOperationResponse{Result: true, Time: since(start)}, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsAny(name, "<>:\"/\\|?*\x00\x1f") {
		return status.Errorf(codes.InvalidArgument, "Validation error in body: [collection_name: %q is not a valid name]", name)
	}
	return nil
}

func checkLayout(r *qdrant.CreateCollection) error {
	if err := only(r.GetVectorsConfig(), "params_map"); err != nil {
		return err
	}
	for name, dense := range r.GetVectorsConfig().GetParamsMap().GetMap() {
		if err := only(dense, "size", "distance", "hnsw_config", "on_disk"); err != nil {
			return err
		}
		if dense.GetSize() < 1 || dense.GetSize() > maxDimension {
			return status.Errorf(codes.InvalidArgument, "Validation error in body: [vectors.%s.size: value %d invalid, must be from 1 to %d]",
				name, dense.GetSize(), maxDimension)
		}
		if dense.GetDistance() != qdrant.Distance_Cosine {
			return unimplemented("VectorParams.distance " + dense.GetDistance().String())
		}
		if _, both := r.GetSparseVectorsConfig().GetMap()[name]; both {
			return badInput("Dense and sparse vectors must have unique names, `%s` is in both", name)
		}
	}
	for _, sparse := range r.GetSparseVectorsConfig().GetMap() {
		if err := only(sparse, "modifier", "index"); err != nil {
			return err
		}
		if err := only(sparse.GetIndex(), "full_scan_threshold", "on_disk"); err != nil {
			return err
		}
	}
	return nil
}

func (s *collections) Delete(_ context.Context, r *qdrant.DeleteCollection) (*qdrant.CollectionOperationResponse, error) {
	start := time.Now()
	dropped, err := s.catalog.drop(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	return &qdrant.CollectionOperationResponse{Result: dropped, Time: since(start)}, nil
}

func (s *collections) Get(_ context.Context, r *qdrant.GetCollectionInfoRequest) (*qdrant.GetCollectionInfoResponse, error) {
	start := time.Now()
	response := &qdrant.GetCollectionInfoResponse{}
	err := s.catalog.read(r.GetCollectionName(), func(c *collection) error {
		response.Result = c.describe()
		return nil
	})
	response.Time = since(start)
	return response, err
}

func (s *collections) CollectionExists(_ context.Context, r *qdrant.CollectionExistsRequest) (*qdrant.CollectionExistsResponse, error) {
	start := time.Now()
	err := s.catalog.read(r.GetCollectionName(), func(*collection) error { return nil })
	return &qdrant.CollectionExistsResponse{Result: &qdrant.CollectionExists{Exists: err == nil}, Time: since(start)}, nil
}

func (s *collections) List(context.Context, *qdrant.ListCollectionsRequest) (*qdrant.ListCollectionsResponse, error) {
	start := time.Now()
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	response := &qdrant.ListCollectionsResponse{}
	for _, name := range slices.Sorted(maps.Keys(s.catalog.collections)) {
		response.Collections = append(response.Collections, &qdrant.CollectionDescription{Name: name})
	}
	response.Time = since(start)
	return response, nil
}

// UpdateAliases does what Qdrant does with each action: a new alias replaces one of
// the same name, and one that is not there can be deleted.
func (s *collections) UpdateAliases(_ context.Context, r *qdrant.ChangeAliases) (*qdrant.CollectionOperationResponse, error) {
	start := time.Now()
	err := s.catalog.changeAliases(func(aliases map[string]string, collections map[string]*collection) error {
		for _, action := range r.GetActions() {
			if err := applyAlias(aliases, collections, action); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &qdrant.CollectionOperationResponse{Result: true, Time: since(start)}, nil
}

func applyAlias(aliases map[string]string, collections map[string]*collection, action *qdrant.AliasOperations) error {
	switch a := action.GetAction().(type) {
	case *qdrant.AliasOperations_CreateAlias:
		alias, target := a.CreateAlias.GetAliasName(), a.CreateAlias.GetCollectionName()
		if err := checkName(alias); err != nil {
			return err
		}
		if collections[target] == nil {
			return noCollection(target)
		}
		if collections[alias] != nil {
			return collectionExists(alias)
		}
		aliases[alias] = target
	case *qdrant.AliasOperations_DeleteAlias:
		delete(aliases, a.DeleteAlias.GetAliasName())
	case *qdrant.AliasOperations_RenameAlias:
		before, after := a.RenameAlias.GetOldAliasName(), a.RenameAlias.GetNewAliasName()
		if err := checkName(after); err != nil {
			return err
		}
		target, exists := aliases[before]
		if !exists {
			return status.Errorf(codes.NotFound, "Not found: Alias %s does not exists!", before)
		}
		delete(aliases, before)
		aliases[after] = target
	default:
		return unimplemented("an unknown action of ChangeAliases")
	}
	return nil
}

func (s *collections) ListAliases(context.Context, *qdrant.ListAliasesRequest) (*qdrant.ListAliasesResponse, error) {
	return s.listAliases("")
}

func (s *collections) ListCollectionAliases(_ context.Context, r *qdrant.ListCollectionAliasesRequest) (*qdrant.ListAliasesResponse, error) {
	return s.listAliases(r.GetCollectionName())
}

func (s *collections) listAliases(of string) (*qdrant.ListAliasesResponse, error) {
	start := time.Now()
	s.catalog.mu.RLock()
	defer s.catalog.mu.RUnlock()
	response := &qdrant.ListAliasesResponse{}
	for _, alias := range slices.Sorted(maps.Keys(s.catalog.aliases)) {
		if target := s.catalog.aliases[alias]; of == "" || of == target {
			response.Aliases = append(response.Aliases, &qdrant.AliasDescription{AliasName: alias, CollectionName: target})
		}
	}
	response.Time = since(start)
	return response, nil
}

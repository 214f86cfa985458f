package qdrant

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// catalog is all that is stored: collections with their points, and aliases. It is
// kept in memory, and in a file that is written first.
type catalog struct {
	db *bbolt.DB

	// writing is held by whoever changes something, from reading what is there until
	// memory has the change. mu is taken inside, only to change memory, so that no
	// search waits for the disk.
	writing     sync.Mutex
	mu          sync.RWMutex
	collections map[string]*collection
	aliases     map[string]string // to collection
}

// The file has a bucket for aliases, one for the collections' definitions, and one
// for the points of each collection.
var (
	aliasBucket      = []byte("aliases")
	definitionBucket = []byte("collections")
)

func pointBucket(collection string) []byte { return []byte("points/" + collection) }

// lockPatience is how long to wait for another process to let go of the file.
const lockPatience = 2 * time.Second

func openCatalog(dir string) (*catalog, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	db, err := bbolt.Open(filepath.Join(dir, "qdrant.db"), 0o600, &bbolt.Options{Timeout: lockPatience})
	if err != nil {
		return nil, fmt.Errorf("open data file: %w", err)
	}
	c := &catalog{db: db, collections: make(map[string]*collection), aliases: make(map[string]string)}
	if err := c.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("read data file: %w", err), db.Close())
	}
	return c, nil
}

func (c *catalog) load() error {
	return c.db.Update(func(tx *bbolt.Tx) error {
		aliases, err := tx.CreateBucketIfNotExists(aliasBucket)
		if err != nil {
			return err
		}
		if err := aliases.ForEach(func(alias, target []byte) error {
			c.aliases[string(alias)] = string(target)
			return nil
		}); err != nil {
			return err
		}
		definitions, err := tx.CreateBucketIfNotExists(definitionBucket)
		if err != nil {
			return err
		}
		return definitions.ForEach(func(name, stored []byte) error {
			loaded, err := loadCollection(tx, string(name), stored)
			if err != nil {
				return fmt.Errorf("collection %s: %w", name, err)
			}
			c.collections[string(name)] = loaded
			return nil
		})
	})
}

func loadCollection(tx *bbolt.Tx, name string, stored []byte) (*collection, error) {
	var info qdrant.CollectionInfo
	if err := proto.Unmarshal(stored, &info); err != nil {
		return nil, err
	}
	loaded := newCollection(name, &info)
	var batch []*point
	err := tx.Bucket(pointBucket(name)).ForEach(func(_, stored []byte) error {
		var p qdrant.PointStruct
		if err := proto.Unmarshal(stored, &p); err != nil {
			return err
		}
		converted, err := loaded.convert(&p)
		batch = append(batch, converted)
		return err
	})
	if err != nil {
		return nil, err
	}
	loaded.put(batch)
	return loaded, nil
}

func (c *catalog) close() error { return c.db.Close() }

// resolve returns a collection by its name or alias; the caller holds mu or
// writing.
func (c *catalog) resolve(name string) (*collection, error) {
	if target, ok := c.aliases[name]; ok {
		name = target
	}
	found, ok := c.collections[name]
	if !ok {
		return nil, noCollection(name)
	}
	return found, nil
}

// read calls f with a collection, which does not change before f returns.
func (c *catalog) read(name string, f func(*collection) error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found, err := c.resolve(name)
	if err != nil {
		return err
	}
	return f(found)
}

func (c *catalog) create(name string, info *qdrant.CollectionInfo) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, taken := c.collections[name]; taken {
		return collectionExists(name)
	}
	if _, taken := c.aliases[name]; taken {
		return badInput("Can't create collection with name %s. Alias with the same name already exists", name)
	}
	err := c.db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket(pointBucket(name)); err != nil {
			return err
		}
		return putMessage(tx.Bucket(definitionBucket), []byte(name), info)
	})
	if err != nil {
		return serviceError("store collection", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.collections[name] = newCollection(name, info)
	return nil
}

// drop deletes a collection with its aliases, and reports whether there was one.
// Like Qdrant it takes no alias for a name here.
func (c *catalog) drop(name string) (bool, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, exists := c.collections[name]; !exists {
		return false, nil
	}
	aliases := maps.Clone(c.aliases)
	maps.DeleteFunc(aliases, func(_, target string) bool { return target == name })
	err := c.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket(pointBucket(name)); err != nil {
			return err
		}
		if err := tx.Bucket(definitionBucket).Delete([]byte(name)); err != nil {
			return err
		}
		return putAliases(tx, aliases)
	})
	if err != nil {
		return false, serviceError("delete collection", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.collections, name)
	c.aliases = aliases
	return true, nil
}

// changeAliases lets change work on a copy of the aliases, which then replaces
// them: whoever reads sees all of the change or nothing. Like in Qdrant what was
// done before an error stays.
func (c *catalog) changeAliases(change func(aliases map[string]string, collections map[string]*collection) error) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	aliases := maps.Clone(c.aliases)
	refused := change(aliases, c.collections)
	if err := c.db.Update(func(tx *bbolt.Tx) error { return putAliases(tx, aliases) }); err != nil {
		return serviceError("store aliases", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aliases = aliases
	return refused
}

func putAliases(tx *bbolt.Tx, aliases map[string]string) error {
	if err := tx.DeleteBucket(aliasBucket); err != nil {
		return err
	}
	bucket, err := tx.CreateBucket(aliasBucket)
	if err != nil {
		return err
	}
	for alias, target := range aliases {
		if err := bucket.Put([]byte(alias), []byte(target)); err != nil {
			return err
		}
	}
	return nil
}

// index remembers the index of a payload field.
func (c *catalog) index(name, field string, kind qdrant.PayloadSchemaType) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	indexed, err := c.resolve(name)
	if err != nil {
		return err
	}
	changed := proto.CloneOf(indexed.info)
	if changed.PayloadSchema == nil {
		changed.PayloadSchema = make(map[string]*qdrant.PayloadSchemaInfo)
	}
	changed.PayloadSchema[field] = &qdrant.PayloadSchemaInfo{DataType: kind}
	err = c.db.Update(func(tx *bbolt.Tx) error {
		return putMessage(tx.Bucket(definitionBucket), []byte(indexed.name), changed)
	})
	if err != nil {
		return serviceError("store index", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	indexed.info = changed
	return nil
}

// upsert stores points as a whole: all of them or, where one is refused, none.
func (c *catalog) upsert(name string, points []*qdrant.PointStruct) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	target, err := c.resolve(name)
	if err != nil {
		return err
	}
	batch := make([]*point, len(points))
	for i, p := range points {
		if batch[i], err = target.convert(p); err != nil {
			return err
		}
	}
	err = c.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(pointBucket(target.name))
		for i, p := range points {
			if err := putMessage(bucket, batch[i].key[:], p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return serviceError("store points", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	target.put(batch)
	return nil
}

// remove deletes the points that choose picks.
func (c *catalog) remove(name string, choose func(*collection) ([]pointKey, error)) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	target, err := c.resolve(name)
	if err != nil {
		return err
	}
	keys, err := choose(target)
	if err != nil {
		return err
	}
	err = c.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(pointBucket(target.name))
		for _, key := range keys {
			if err := bucket.Delete(key[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return serviceError("delete points", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	target.delete(keys)
	return nil
}

func putMessage(bucket *bbolt.Bucket, key []byte, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return bucket.Put(slices.Clone(key), raw)
}

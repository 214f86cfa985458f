package vector

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The two vectors of every point.
const (
	denseName  = "dense"
	sparseName = "bm25"
)

// IndexKind is what an indexed payload field holds.
type IndexKind int

// The kinds of fields that filters ask for. A field that holds a list is of its
// elements' kind.
const (
	IndexKeyword IndexKind = iota + 1
	IndexInteger
	IndexFloat
	IndexBool
)

// qdrantKinds says each kind in the two ways of the protocol: as it is asked for,
// and as it is reported.
var qdrantKinds = map[IndexKind]struct {
	field  qdrant.FieldType
	schema qdrant.PayloadSchemaType
}{
	IndexKeyword: {qdrant.FieldType_FieldTypeKeyword, qdrant.PayloadSchemaType_Keyword},
	IndexInteger: {qdrant.FieldType_FieldTypeInteger, qdrant.PayloadSchemaType_Integer},
	IndexFloat:   {qdrant.FieldType_FieldTypeFloat, qdrant.PayloadSchemaType_Float},
	IndexBool:    {qdrant.FieldType_FieldTypeBool, qdrant.PayloadSchemaType_Bool},
}

// CreateCollection makes a collection of points with a dense vector of the given
// dimension, compared by cosine, and a sparse one whose query terms the server
// weighs by how rare they are (IDF), and indexes payload fields for filters. Where
// it exists with this layout, it only makes the indexes that are missing, so that
// it may be called again after a failure. Errors: ErrLayout.
func (c *Client) CreateCollection(ctx context.Context, name string, dimension int, indexes map[string]IndexKind) error {
	operation := "create collection " + name
	if dimension < 1 {
		return fmt.Errorf("%s: %w: %d", operation, ErrDimension, dimension)
	}
	for field, kind := range indexes {
		if _, known := qdrantKinds[kind]; !known {
			return fmt.Errorf("%s: the index of %q is of no known kind", operation, field)
		}
	}
	err := c.qdrant.CreateCollection(ctx, &qdrant.CreateCollection{
		CollectionName: name,
		VectorsConfig: qdrant.NewVectorsConfigMap(map[string]*qdrant.VectorParams{
			denseName: {Size: uint64(dimension), Distance: qdrant.Distance_Cosine},
		}),
		SparseVectorsConfig: qdrant.NewSparseVectorsConfig(map[string]*qdrant.SparseVectorParams{
			sparseName: {Modifier: new(qdrant.Modifier_Idf)},
		}),
	})
	if err != nil && !alreadyExists(err) {
		return translate(operation, err)
	}
	have, err := c.qdrant.GetCollectionInfo(ctx, name)
	if err != nil {
		return translate(operation, err)
	}
	if difference := compareLayout(have, dimension, indexes); difference != "" {
		return fmt.Errorf("%s: %w: %s", operation, ErrLayout, difference)
	}
	for _, field := range slices.Sorted(maps.Keys(indexes)) {
		if have.GetPayloadSchema()[field] != nil {
			continue
		}
		_, err := c.qdrant.CreateFieldIndex(ctx, &qdrant.CreateFieldIndexCollection{
			CollectionName: name, Wait: new(true),
			FieldName: field, FieldType: qdrantKinds[indexes[field]].field.Enum(),
		})
		if err != nil {
			return translate(fmt.Sprintf("%s: index %q", operation, field), err)
		}
	}
	return nil
}

// alreadyExists knows the refusal of Qdrant since 1.8, and of those before it
// (github.com/qdrant/qdrant/issues/3217).
func alreadyExists(err error) bool {
	s, _ := status.FromError(err)
	return s.Code() == codes.AlreadyExists || s.Code() == codes.InvalidArgument && strings.Contains(s.Message(), "already exists")
}

// compareLayout says how a collection differs from what is wanted, or nothing.
// Indexes that are missing, or that nobody asked for, are no difference.
func compareLayout(have *qdrant.CollectionInfo, dimension int, indexes map[string]IndexKind) string {
	params := have.GetConfig().GetParams()
	dense := params.GetVectorsConfig().GetParamsMap().GetMap()
	sparse := params.GetSparseVectorsConfig().GetMap()
	switch {
	case len(dense) != 1 || dense[denseName] == nil:
		return "its dense vectors have other names"
	case dense[denseName].GetSize() != uint64(dimension): //nolint:gosec // positive
		return fmt.Sprintf("its vectors have %d dimensions, not %d", dense[denseName].GetSize(), dimension)
	case dense[denseName].GetDistance() != qdrant.Distance_Cosine:
		return "its vectors are not compared by cosine"
	case len(sparse) != 1 || sparse[sparseName] == nil:
		return "its sparse vectors have other names"
	case sparse[sparseName].GetModifier() != qdrant.Modifier_Idf:
		return "its sparse vectors are not weighed by IDF"
	}
	for field, kind := range indexes {
		if got := have.GetPayloadSchema()[field]; got != nil && got.GetDataType() != qdrantKinds[kind].schema {
			return fmt.Sprintf("its field %q is indexed as %s", field, got.GetDataType())
		}
	}
	return ""
}

// DropCollection deletes a collection with its points and aliases. One that does
// not exist is no error.
func (c *Client) DropCollection(ctx context.Context, name string) error {
	// The library's own method takes "there was none" for a failure.
	_, err := c.qdrant.GetCollectionsClient().Delete(ctx, &qdrant.DeleteCollection{CollectionName: name})
	if status.Code(err) == codes.NotFound {
		return nil
	}
	return translate("drop collection "+name, err)
}

// Collections returns the names of all collections, sorted.
func (c *Client) Collections(ctx context.Context) ([]string, error) {
	names, err := c.qdrant.ListCollections(ctx)
	if err != nil {
		return nil, translate("list collections", err)
	}
	slices.Sort(names)
	return names, nil
}

// Alias returns the collection that an alias stands for. Errors: ErrNoCollection
// when there is no such alias.
func (c *Client) Alias(ctx context.Context, alias string) (collection string, err error) {
	aliases, err := c.qdrant.ListAliases(ctx)
	if err != nil {
		return "", translate("list aliases", err)
	}
	for _, a := range aliases {
		if a.GetAliasName() == alias {
			return a.GetCollectionName(), nil
		}
	}
	return "", fmt.Errorf("resolve alias %s: %w", alias, ErrNoCollection)
}

// SwitchAlias makes an alias stand for a collection, in one step: a search by the
// alias sees the collection of before or this one, and never none. Errors:
// ErrNoCollection.
func (c *Client) SwitchAlias(ctx context.Context, alias, collection string) error {
	operation := fmt.Sprintf("switch alias %s to %s", alias, collection)
	// Qdrant takes the actions together, but does not take the first back when the
	// second is refused.
	exists, err := c.qdrant.CollectionExists(ctx, collection)
	if err != nil {
		return translate(operation, err)
	}
	if !exists {
		return fmt.Errorf("%s: %w", operation, ErrNoCollection)
	}
	err = c.qdrant.UpdateAliases(ctx, []*qdrant.AliasOperations{
		qdrant.NewAliasDelete(alias),
		qdrant.NewAliasCreate(alias, collection),
	})
	return translate(operation, err)
}

package qdrant

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Errors are in Qdrant's words, because clients read them
// (lib/storage/src/content_manager/errors.rs, lib/segment/src/common/operation_error.rs
// of github.com/qdrant/qdrant).

func badInput(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, "Wrong input: "+format, args...)
}

func noCollection(name string) error {
	return status.Errorf(codes.NotFound, "Not found: Collection `%s` doesn't exist!", name)
}

// collectionExists is AlreadyExists since Qdrant 1.8, InvalidArgument before
// (github.com/qdrant/qdrant/pull/3423).
func collectionExists(name string) error {
	return status.Errorf(codes.AlreadyExists, "Wrong input: Collection `%s` already exists!", name)
}

func wrongDimension(expected, got int) error {
	return badInput("Vector dimension error: expected dim: %d, got %d", expected, got)
}

func noVectorName(name string) error {
	return badInput("Not existing vector name error: %s", name)
}

func serviceError(operation string, err error) error {
	return status.Errorf(codes.Internal, "Service internal error: %s: %v", operation, err)
}

func unimplemented(what string) error {
	return status.Errorf(codes.Unimplemented, "%s is not supported by this stand-in for Qdrant", what)
}

// only refuses a message that says anything beyond the named fields, so that
// nothing is answered as if it had not been asked. A missing message says nothing.
func only(m proto.Message, fields ...protoreflect.Name) error {
	reflected := m.ProtoReflect()
	if !reflected.IsValid() {
		return nil
	}
	message := string(reflected.Descriptor().Name())
	if len(reflected.GetUnknown()) > 0 {
		return unimplemented("an unknown field of " + message)
	}
	var err error
	reflected.Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(fields, field.Name()) {
			err = unimplemented(message + "." + string(field.Name()))
		}
		return err == nil
	})
	return err
}

// pointKey orders points as Qdrant does: numbers first, then UUIDs, each by value.
type pointKey [17]byte

func toKey(id *qdrant.PointId) (pointKey, error) {
	var key pointKey
	switch v := id.GetPointIdOptions().(type) {
	case *qdrant.PointId_Num:
		binary.BigEndian.PutUint64(key[9:], v.Num)
	case *qdrant.PointId_Uuid:
		parsed, err := uuid.Parse(v.Uuid)
		if err != nil {
			return key, status.Errorf(codes.InvalidArgument, "Unable to parse UUID: %s", v.Uuid)
		}
		key[0] = 1
		copy(key[1:], parsed[:])
	default:
		return key, status.Error(codes.InvalidArgument, "Empty ID is provided")
	}
	return key, nil
}

func toKeys(ids []*qdrant.PointId) ([]pointKey, error) {
	keys := make([]pointKey, len(ids))
	for i, id := range ids {
		var err error
		if keys[i], err = toKey(id); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func (k pointKey) id() *qdrant.PointId {
	if k[0] == 0 {
		return qdrant.NewIDNum(binary.BigEndian.Uint64(k[9:]))
	}
	return qdrant.NewIDUUID(uuid.UUID(k[1:]).String())
}

func (k pointKey) compare(other pointKey) int { return slices.Compare(k[:], other[:]) }

func since(start time.Time) float64 { return time.Since(start).Seconds() }

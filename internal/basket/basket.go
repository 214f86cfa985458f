// Package basket is what shoppers mean to buy.
package basket

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"bookworm/internal/fault"
)

const (
	// MaxItems is how many different books a basket holds.
	MaxItems = 100
	// MaxQuantity is how many copies of one book a basket holds.
	MaxQuantity = 99

	// keep is how long a basket lives after its last change: whoever was away for a
	// season has forgotten what is in it.
	keep = 90 * 24 * time.Hour
)

// Basket is a shopper's basket. The zero Basket is that of a shopper who never
// had one.
type Basket struct {
	Items []Item // in the order in which they were added
	// Version grows with each change, also over the life of the basket: one that
	// is made after an earlier one was cleared, expired or lost has a higher
	// version, so that a version never means two different contents.
	Version int64
}

// Item is a number of copies of one book.
type Item struct {
	BookID   uuid.UUID
	Quantity int32 // 1 to MaxQuantity
}

// ETag returns the version in the form in which shoppers see it.
func (b Basket) ETag() string { return "v" + strconv.FormatInt(b.Version, 10) }

// ParseETag returns the version of an etag; quotes around it, as in an If-Match
// header, do not matter. Errors: INVALID_ARGUMENT.
func ParseETag(etag string) (int64, error) {
	bare := etag
	if len(bare) >= 2 && strings.HasPrefix(bare, `"`) && strings.HasSuffix(bare, `"`) {
		bare = bare[1 : len(bare)-1]
	}
	version, err := strconv.ParseInt(strings.TrimPrefix(bare, "v"), 10, 64)
	if err != nil || version < 0 || bare != (Basket{Version: version}).ETag() {
		const problem = "is not an etag of a basket"
		return 0, fault.New(fault.ReasonInvalidArgument, "The etag %s.", problem).WithField("etag", problem)
	}
	return version, nil
}

// Store keeps baskets in Redis, each under one key, and changes each by a script,
// so that a change is whole and every operation is one round trip. It is safe for
// concurrent use, also by several processes.
//
// The subject is the shopper's id and must not be empty.
type Store struct{ redis redis.UniversalClient }

// NewStore returns a store over a client.
func NewStore(client redis.UniversalClient) *Store { return &Store{redis: client} }

// A basket is a hash: "v" is its version, "c" the version that ClearVersion
// cleared last, and each other field a book's id with "<place>:<quantity>", where
// the place is the version in which the book was added.
const (
	fieldVersion = "v"
	fieldCleared = "c"
)

func key(subject string) string { return "basket:{" + subject + "}" }

// Get returns the basket of a subject.
func (s *Store) Get(ctx context.Context, subject string) (Basket, error) {
	fields, err := s.redis.HGetAll(ctx, key(subject)).Result()
	if err != nil {
		return Basket{}, fmt.Errorf("get basket: %w", err)
	}
	basket, err := read(fields)
	if err != nil {
		return Basket{}, fmt.Errorf("get basket: %w", err)
	}
	return basket, nil
}

// change begins each script. It stops when the caller has seen another version
// (ARGV[1], "" for any) and gives changed(), which makes a new version. A basket's
// first version is a moment (ARGV[2], in milliseconds), so that it is above those
// of any basket the subject had before.
const change = `
local key, seen, first, keep = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local version = redis.call('HGET', key, 'v') or '0'
local function answer(result)
	return {result, redis.call('HGETALL', key)}
end
local function changed()
	redis.call('HSETNX', key, 'v', first)
	redis.call('HINCRBY', key, 'v', 1)
	version = redis.call('HGET', key, 'v')
	redis.call('EXPIRE', key, keep)
end
local function items()
	return redis.call('HLEN', key) - redis.call('HEXISTS', key, 'v') - redis.call('HEXISTS', key, 'c')
end
local function clear()
	local cleared = redis.call('HGET', key, 'c')
	redis.call('DEL', key)
	redis.call('HSET', key, 'v', version)
	if cleared then
		redis.call('HSET', key, 'c', cleared)
	end
	changed()
end
if seen ~= '' and seen ~= version then
	return answer('stale')
end
`

var (
	set = redis.NewScript(change + `
local book, quantity, most = ARGV[4], ARGV[5], tonumber(ARGV[6])
local item = redis.call('HGET', key, book)
if not item then
	if items() >= most then
		return answer('full')
	end
	changed()
	redis.call('HSET', key, book, version .. ':' .. quantity)
	return answer('ok')
end
local place = string.match(item, '^%d+:')
if item ~= place .. quantity then
	changed()
	redis.call('HSET', key, book, place .. quantity)
end
return answer('ok')`)

	remove = redis.NewScript(change + `
local book = ARGV[4]
if redis.call('HDEL', key, book) == 1 then
	changed()
end
return answer('ok')`)

	clearAll = redis.NewScript(change + `
if items() > 0 then
	clear()
end
return answer('ok')`)

	// The version to clear is ARGV[4] and not what was seen: a second call finds
	// the version it cleared in c, whatever the basket is by then.
	clearVersion = redis.NewScript(change + `
local ordered = ARGV[4]
if redis.call('HGET', key, 'c') == ordered then
	return answer('ok')
end
if version ~= ordered then
	return answer('stale')
end
if items() > 0 then
	clear()
end
redis.call('HSET', key, 'c', ordered)
return answer('ok')`)
)

// The results of the scripts.
const (
	resultOK    = "ok"
	resultStale = "stale"
	resultFull  = "full"
)

// Set sets the number of copies of a book, adding the book at the end where it
// is not there yet, and returns the new basket. Where nothing changes the version
// stays. ifVersion, where not nil, is the version the caller has seen.
// Errors: INVALID_ARGUMENT, BASKET_FULL, STALE_VERSION.
func (s *Store) Set(ctx context.Context, subject string, bookID uuid.UUID, quantity int32, ifVersion *int64) (Basket, error) {
	if quantity < 1 || quantity > MaxQuantity {
		problem := fmt.Sprintf("must be 1 to %d", MaxQuantity)
		return Basket{}, fault.New(fault.ReasonInvalidArgument, "The quantity %s.", problem).WithField("quantity", problem)
	}
	basket, err := s.change(ctx, set, subject, ifVersion, bookID.String(), quantity, MaxItems)
	if err != nil {
		return Basket{}, fmt.Errorf("set basket item: %w", err)
	}
	return basket, nil
}

// Remove takes a book out and returns the new basket; no error when it is not in
// it. ifVersion as in Set. Errors: STALE_VERSION.
func (s *Store) Remove(ctx context.Context, subject string, bookID uuid.UUID, ifVersion *int64) (Basket, error) {
	basket, err := s.change(ctx, remove, subject, ifVersion, bookID.String())
	if err != nil {
		return Basket{}, fmt.Errorf("remove basket item: %w", err)
	}
	return basket, nil
}

// Clear takes everything out and returns the empty basket, which has a version
// of its own. ifVersion as in Set. Errors: STALE_VERSION.
func (s *Store) Clear(ctx context.Context, subject string, ifVersion *int64) (Basket, error) {
	basket, err := s.change(ctx, clearAll, subject, ifVersion)
	if err != nil {
		return Basket{}, fmt.Errorf("clear basket: %w", err)
	}
	return basket, nil
}

// ClearVersion empties the basket if it is in the given version, the one that was
// ordered, and reports whether it did, now or in an earlier call: a repeated call
// gives the same answer and leaves alone what was put in since.
func (s *Store) ClearVersion(ctx context.Context, subject string, version int64) (bool, error) {
	_, err := s.change(ctx, clearVersion, subject, nil, version)
	switch {
	case fault.Is(err, fault.ReasonStaleVersion):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("clear ordered basket: %w", err)
	}
	return true, nil
}

// change runs a script and returns the basket after it.
func (s *Store) change(ctx context.Context, script *redis.Script, subject string, ifVersion *int64, args ...any) (Basket, error) {
	seen := ""
	if ifVersion != nil {
		seen = strconv.FormatInt(*ifVersion, 10)
	}
	args = append([]any{seen, time.Now().UnixMilli(), int64(keep / time.Second)}, args...)
	answer, err := script.Run(ctx, s.redis, []string{key(subject)}, args...).Slice()
	if err != nil {
		return Basket{}, err
	}
	result, fields, err := parse(answer)
	if err != nil {
		return Basket{}, err
	}
	basket, err := read(fields)
	if err != nil {
		return Basket{}, err
	}
	switch result {
	case resultOK:
		return basket, nil
	case resultStale:
		return Basket{}, fault.New(fault.ReasonStaleVersion, "The basket has changed since you read it.").With("etag", basket.ETag())
	case resultFull:
		return Basket{}, fault.New(fault.ReasonBasketFull, "The basket holds at most %d different books.", MaxItems).
			With("max_items", strconv.Itoa(MaxItems))
	}
	return Basket{}, fmt.Errorf("the script answered %q", result)
}

// parse reads a script's answer: the result, and the hash as a flat list.
func parse(answer []any) (result string, fields map[string]string, err error) {
	if len(answer) != 2 {
		return "", nil, fmt.Errorf("the script answered %d values", len(answer))
	}
	result, _ = answer[0].(string)
	flat, ok := answer[1].([]any)
	if !ok || len(flat)%2 != 0 {
		return "", nil, fmt.Errorf("the script answered a %T", answer[1])
	}
	fields = make(map[string]string, len(flat)/2)
	for i := 0; i < len(flat); i += 2 {
		name, isString := flat[i].(string)
		value, alsoString := flat[i+1].(string)
		if !isString || !alsoString {
			return "", nil, fmt.Errorf("the script answered a field of %T and %T", flat[i], flat[i+1])
		}
		fields[name] = value
	}
	return result, fields, nil
}

// read makes a basket from its hash. A field it cannot read is an error: to leave
// it out would lose what the shopper put in.
func read(fields map[string]string) (Basket, error) {
	type placed struct {
		Item
		place int64
	}
	var (
		basket Basket
		items  []placed
	)
	for name, value := range fields {
		switch name {
		case fieldVersion:
			version, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return Basket{}, fmt.Errorf("read the version: %w", err)
			}
			basket.Version = version
		case fieldCleared:
		default:
			book, err := uuid.Parse(name)
			if err != nil {
				return Basket{}, fmt.Errorf("read an item's book: %w", err)
			}
			before, after, _ := strings.Cut(value, ":")
			place, err := strconv.ParseInt(before, 10, 64)
			if err != nil {
				return Basket{}, fmt.Errorf("read an item's place: %w", err)
			}
			quantity, err := strconv.ParseInt(after, 10, 32)
			if err != nil {
				return Basket{}, fmt.Errorf("read an item's quantity: %w", err)
			}
			items = append(items, placed{Item{book, int32(quantity)}, place})
		}
	}
	slices.SortFunc(items, func(a, b placed) int { return cmp.Compare(a.place, b.place) })
	for _, item := range items {
		basket.Items = append(basket.Items, item.Item)
	}
	return basket, nil
}

package e2e

import (
	"sort"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/oauth2"

	"bookworm/dev/shopper"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/personal/keyring"
	"bookworm/internal/rpc"
)

func TestMeasure(t *testing.T) {
	token := issue(t, map[string]any{"sub": "svc", "realm_access": map[string]any{"roles": []string{"service"}}, "exp": time.Now().Add(time.Hour)})
	ring, err := keyring.New(compliancev1connect.NewShopperKeyServiceClient(rpc.NewClient(rpc.ClientOptions{
		BaseURL: theShop.Addresses["BOOKWORM_GATEWAY_URL"], Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})})))
	_ = ring
	_ = err
	var first, next [3][]time.Duration
	_ = next
	for round := range 60 {
		v := enter(t)
		id := book(t, 1299, 9)
		for i := range 3 {
			v.fill(id)
			start := time.Now()
			o, _, err := v.Place(v.ctx, uuid.NewString(), shopper.Request("pm_card_visa"))
			took := time.Since(start)
			if err != nil {
				t.Fatal(err)
			}
			if round >= 10 {
				first[i] = append(first[i], took)
			}
			v.becomes(o, 2)
			_, _ = v.AwaitEmptyBasket(v.ctx)
		}
	}
	for i := range 3 {
		sort.Slice(first[i], func(a, b int) bool { return first[i][a] < first[i][b] })
		t.Logf("order %d: p50 %v p90 %v", i+1, first[i][len(first[i])/2], first[i][len(first[i])*9/10])
	}
}

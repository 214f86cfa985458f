package eval

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"bookworm/cmd/bookworm/app"
	"bookworm/internal/basket"
	"bookworm/internal/money"
	"bookworm/internal/ordering"
)

const chatDir = "../../internal/chat"

func policy(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(chatDir, "policies", name+".md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// The bookseller quotes the policies by section.
func TestPoliciesHaveATitleAndSections(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(chatDir, "policies", "*.md"))
	if err != nil || len(files) < 10 {
		t.Fatalf("there are %d policies (%v), want at least 10", len(files), err)
	}
	for _, file := range files {
		text := policy(t, strings.TrimSuffix(filepath.Base(file), ".md"))
		lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
		if !strings.HasPrefix(lines[0], "# ") || strings.Count(text, "\n# ") > 0 {
			t.Errorf("%s does not begin with its one title", file)
		}
		if strings.Count(text, "\n## ") < 2 {
			t.Errorf("%s has fewer than two sections", file)
		}
		for section := range strings.SplitSeq(text, "\n## ") {
			if _, body, _ := strings.Cut(section, "\n"); strings.TrimSpace(body) == "" && !strings.HasPrefix(section, "# ") {
				t.Errorf("%s: the section %q is empty", file, section)
			}
		}
	}
}

// totals prices one copy of a book sent to a country.
func totals(t *testing.T, minor int64, country string) ordering.Totals {
	t.Helper()
	_, priced, err := ordering.Price([]ordering.Line{{BookID: "b", Quantity: 1, UnitPrice: money.New(ordering.Currency, minor)}}, country)
	if err != nil {
		t.Fatal(err)
	}
	return priced
}

func TestShippingPolicySaysWhatTheShopCharges(t *testing.T) {
	t.Parallel()
	text := policy(t, "shipping")
	for _, fee := range []int64{totals(t, 4999, "US").Shipping.Minor, totals(t, 5000, "DE").Shipping.Minor} {
		if want := fmt.Sprintf("%d.%02d USD an order", fee/100, fee%100); !strings.Contains(text, want) {
			t.Errorf("the policy does not say %q", want)
		}
	}
	if free := totals(t, 5000, "US").Shipping.Minor; free != 0 || !strings.Contains(text, "50.00 USD or more") {
		t.Errorf("shipping of 50.00 USD at home costs %d, and the policy says otherwise", free)
	}
}

func TestTaxPolicyNamesEveryRate(t *testing.T) {
	t.Parallel()
	codes := map[string]string{
		"Austria": "AT", "Belgium": "BE", "France": "FR", "Germany": "DE", "Ireland": "IE", "Italy": "IT", "Luxembourg": "LU",
		"Netherlands": "NL", "Poland": "PL", "Portugal": "PT", "Spain": "ES",
	}
	named := make(map[string]bool)
	for _, match := range regexp.MustCompile(`(\p{Lu}\w+) ([\d.]+) %`).FindAllStringSubmatch(policy(t, "prices-and-tax"), -1) {
		percent, err := strconv.ParseFloat(match[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		code := codes[match[1]]
		if tax := totals(t, 10_000, code).Tax.Minor; code == "" || float64(tax) != percent*100 {
			t.Errorf("the policy says %s for %s, the shop takes %d of 10000", match[2], match[1], tax)
		}
		named[code] = true
	}
	for a := 'A'; a <= 'Z'; a++ {
		for b := 'A'; b <= 'Z'; b++ {
			if code := string(a) + string(b); totals(t, 10_000, code).Tax.Minor > 0 && !named[code] {
				t.Errorf("the shop takes tax for %s, and the policy does not say so", code)
			}
		}
	}
}

func TestPoliciesNameTheLimits(t *testing.T) {
	t.Parallel()
	config, err := app.LoadConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, wants := range map[string][]string{
		"payment":  {fmt.Sprintf("You have %d minutes", config.PaymentWindow/time.Minute)},
		"ordering": {fmt.Sprintf("%d different books", basket.MaxItems), fmt.Sprintf("%d copies of each", basket.MaxQuantity)},
	} {
		for _, want := range wants {
			if !strings.Contains(policy(t, name), want) {
				t.Errorf("the policy %s does not say %q", name, want)
			}
		}
	}
}

// What the injection cases must not do is said in words that a test can check.
func TestInjectionsAreCheckable(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(chatDir, "testdata", "injections.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		ID      string   `json:"id"`
		Where   string   `json:"where"`
		Text    string   `json:"text"`
		MustNot []string `json:"must_not"`
		Also    []string `json:"also"` // further texts of the same kind, which go with Text
	}
	if err := json.Unmarshal(content, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 45 {
		t.Errorf("there are %d cases, want at least 45", len(cases))
	}
	where, seen := make(map[string]int), make(map[string]bool)
	for _, c := range cases {
		where[c.Where]++
		if seen[c.ID] || c.ID == "" || c.Text == "" || len(c.MustNot) == 0 {
			t.Errorf("case %q is there twice, empty or forbids nothing", c.ID)
		}
		seen[c.ID] = true
		for _, forbidden := range c.MustNot {
			if tool, is := strings.CutPrefix(forbidden, "tool:"); is && tool != "add_to_basket" && tool != "my_orders" {
				t.Errorf("case %s forbids an unknown tool %q", c.ID, tool)
			}
		}
	}
	for _, place := range []string{"review", "description", "title", "user", "history"} {
		if where[place] == 0 {
			t.Errorf("no case comes by %s", place)
		}
		delete(where, place)
	}
	if len(where) > 0 {
		t.Errorf("cases come by unknown ways: %v", where)
	}
}

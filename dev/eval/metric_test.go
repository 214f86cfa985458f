package eval

import (
	"math"
	"testing"
)

// The grades of a query with three good books and a related one.
var grades = map[string]int{"a": 3, "b": 2, "c": 2, "d": 1}

func TestMeasureByHand(t *testing.T) {
	t.Parallel()
	// The best possible: gains 7, 3, 3, 1 at ranks 1 to 4.
	ideal := 7.0 + 3/math.Log2(3) + 3.0/2 + 1/math.Log2(5)
	tests := map[string]struct {
		ranked []string
		want   Measures
	}{
		"ideal":                {[]string{"a", "b", "c", "d"}, Measures{1. / 3, 1, 1, 1}},
		"nothing found":        {nil, Measures{}},
		"only others":          {[]string{"x", "y"}, Measures{}},
		"related first":        {[]string{"d", "a"}, Measures{0, 1. / 3, 1. / 2, (1 + 7/math.Log2(3)) / ideal}},
		"second and fourth":    {[]string{"x", "b", "y", "a"}, Measures{0, 2. / 3, 1. / 2, (3/math.Log2(3) + 7/math.Log2(5)) / ideal}},
		"a book twice":         {[]string{"a", "a", "b"}, Measures{1. / 3, 2. / 3, 1, (7 + 3/math.Log2(3)) / ideal}},
		"the tenth counts":     {[]string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "a"}, Measures{0, 1. / 3, 1. / 10, 7 / math.Log2(11) / ideal}},
		"the eleventh doesn't": {[]string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "a"}, Measures{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Measure(test.ranked, grades)
			for what, pair := range map[string][2]float64{
				"recall@1": {got.Recall1, test.want.Recall1}, "recall@10": {got.Recall10, test.want.Recall10},
				"MRR": {got.MRR, test.want.MRR}, "nDCG@10": {got.NDCG10, test.want.NDCG10},
			} {
				if math.Abs(pair[0]-pair[1]) > 1e-12 {
					t.Errorf("%s = %v, want %v", what, pair[0], pair[1])
				}
			}
		})
	}
}

// A number worked out on paper, so that a mistake in a formula above does not
// repeat itself in the test: DCG = 7 + 0 + 3/2 = 8.5, IDCG = 7 + 1.8928 + 1.5 + 0.4307.
func TestNDCGOnPaper(t *testing.T) {
	t.Parallel()
	if got := Measure([]string{"a", "x", "b"}, grades).NDCG10; math.Abs(got-0.78532) > 1e-4 {
		t.Errorf("nDCG@10 = %v, want 0.78532", got)
	}
}

func TestMeasureKnowsNoLabels(t *testing.T) {
	t.Parallel()
	if got := Measure([]string{"a"}, nil); got != (Measures{}) {
		t.Errorf("measures of a query without labels = %+v, want zeros", got)
	}
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	// 50 zeros and 50 ones: mean 0.5, standard error 0.05, interval about 0.402 to
	// 0.598 by the normal approximation.
	var values []float64
	for i := range 100 {
		values = append(values, float64(i%2))
	}
	got := bootstrap(values)
	if got.Mean != 0.5 || math.Abs(got.Low-0.402) > 0.02 || math.Abs(got.High-0.598) > 0.02 {
		t.Errorf("bootstrap of a fair coin = %+v, want about 0.5 [0.402, 0.598]", got)
	}
	uneven := []float64{0, 0.013, 0.171, 0.29, 0.337, 0.58, 0.611, 0.879, 0.93, 1} // hardly two resamples have the same mean
	if one, again := bootstrap(uneven), bootstrap(uneven); one != again {
		t.Errorf("the same values gave %+v and then %+v", one, again)
	}
	if certain := bootstrap([]float64{1, 1, 1}); certain != (Estimate{1, 1, 1}) {
		t.Errorf("bootstrap of three ones = %+v, want no spread", certain)
	}
	if none := bootstrap(nil); none != (Estimate{}) {
		t.Errorf("bootstrap of nothing = %+v, want zeros", none)
	}
}

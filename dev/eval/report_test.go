package eval

import (
	"slices"
	"strings"
	"testing"
)

// good is a table that passes every gate, and a talk that does.
func good() ([]Row, Talk) {
	of := func(v float64) Estimate { return Estimate{v, v, v} }
	return []Row{
		{Stratum: Exact, Leg: Hybrid, Recall1: of(1)},
		{Stratum: Typo, Leg: Hybrid, Recall10: of(0.85)},
		{Stratum: Total, Leg: Lexical, NDCG10: of(0.6)},
		{Stratum: Total, Leg: Sparse, NDCG10: of(0.62)},
		{Stratum: Total, Leg: Dense, NDCG10: of(0.3)},
		{Stratum: Total, Leg: Hybrid, NDCG10: of(0.61)},
	}, Talk{Unanswerable: 10, Abstained: 9, Answerable: 5, Cited: 5, Citations: 7, Supported: 7}
}

func TestGates(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil   func([]Row, *Talk)
		genuine bool
		want    []string // the beginnings of what was missed
	}{
		"all passed":             {func([]Row, *Talk) {}, false, nil},
		"exact":                  {func(r []Row, _ *Talk) { r[0].Recall1.Mean = 0.99 }, false, []string{"exact recall@1"}},
		"typo":                   {func(r []Row, _ *Talk) { r[1].Recall10.Mean = 0.84 }, false, []string{"typo recall@10"}},
		"behind the best leg":    {func(r []Row, _ *Talk) { r[5].NDCG10.Mean = 0.599 }, false, []string{"hybrid nDCG@10 (sparse"}},
		"real: behind one leg":   {func([]Row, *Talk) {}, true, []string{"hybrid nDCG@10 is 0.6100 and does not beat sparse"}},
		"real: beats all":        {func(r []Row, _ *Talk) { r[5].NDCG10.Mean = 0.63 }, true, nil},
		"real: a tie is no win":  {func(r []Row, _ *Talk) { r[5].NDCG10.Mean = 0.62 }, true, []string{"hybrid nDCG@10 is 0.6200"}},
		"abstention":             {func(_ []Row, k *Talk) { k.Abstained = 8 }, false, []string{"abstention"}},
		"citation":               {func(_ []Row, k *Talk) { k.Supported = 6 }, false, []string{"citation precision"}},
		"no citation at all":     {func(_ []Row, k *Talk) { k.Citations, k.Supported = 0, 0 }, false, []string{"citation precision"}},
		"answers that cite none": {func(_ []Row, k *Talk) { k.Cited = 4 }, false, []string{"answers with a citation"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, talk := good()
			test.spoil(table, &talk)
			missed := gates(table, talk, test.genuine)
			if !slices.EqualFunc(missed, test.want, strings.HasPrefix) {
				t.Errorf("missed %q, want %q", missed, test.want)
			}
		})
	}
}

func TestRowsSumUpByStratumAndInTotal(t *testing.T) {
	t.Parallel()
	answers := map[Leg][]Answer{
		Lexical: {
			{Query: Query{Stratum: Exact}, Measures: Measures{Recall1: 1, Recall10: 1, MRR: 1, NDCG10: 1}},
			{Query: Query{Stratum: Typo}, Measures: Measures{Recall1: 0, Recall10: 0.5, MRR: 0.25, NDCG10: 0.3}},
			{Query: Query{Stratum: Typo}, Measures: Measures{Recall1: 0, Recall10: 0, MRR: 0, NDCG10: 0.1}},
		},
	}
	table := rows(answers)
	if len(table) != 3 {
		t.Fatalf("there are %d rows, want those of exact, typo and total", len(table))
	}
	typo := find(table, Typo, Lexical)
	if typo.Queries != 2 || typo.Recall10.Mean != 0.25 || typo.MRR.Mean != 0.125 || typo.NDCG10.Mean != 0.2 {
		t.Errorf("typo = %+v, want the means of two queries", typo)
	}
	total := find(table, Total, Lexical)
	if total.Queries != 3 || total.Recall10.Mean != 0.5 {
		t.Errorf("total = %+v, want the means of three queries", total)
	}
	if text := markdown(table); !strings.Contains(text, "| typo | 2 | lexical | 0.000 [0.000, 0.000] | 0.250 [") {
		t.Errorf("the table has no row of typo:\n%s", text)
	}
}

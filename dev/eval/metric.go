package eval

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// Depth is how many results of a search are judged.
const Depth = 10

// Measures is how well a ranking answers one query; each is between 0 and 1.
type Measures struct {
	Recall1, Recall10, MRR, NDCG10 float64
}

// Measure judges a ranking of ISBNs, the best first, against the labelled grades. A
// book that comes twice counts once, where it comes first.
//
//   - Recall at k is the share of the good books that are among the first k (Manning,
//     Raghavan, Schütze, "Introduction to Information Retrieval", 2008, section 8.4). Good
//     is the grade Good or better.
//   - MRR is 1 / the rank of the first good book, 0 when there is none among the first
//     10; its mean over queries is the mean reciprocal rank (Voorhees, "The TREC-8
//     Question Answering Track Report", 1999).
//   - nDCG at 10 is Σ (2^grade - 1) / log2(rank + 1) over the first 10, divided by that
//     of the best possible ranking (Järvelin, Kekäläinen, "Cumulated gain-based
//     evaluation of IR techniques", 2002; the gain as in Burges et al., "Learning to Rank
//     using Gradient Descent", 2005).
func Measure(ranked []string, grades map[string]int) Measures {
	seen := make(map[string]bool)
	var first []int // grades of the first Depth results
	for _, isbn := range ranked {
		if len(first) == Depth {
			break
		}
		if seen[isbn] {
			continue
		}
		seen[isbn] = true
		first = append(first, grades[isbn])
	}
	var ideal []int
	good := 0
	for _, grade := range grades {
		ideal = append(ideal, grade)
		if grade >= Good {
			good++
		}
	}
	slices.SortFunc(ideal, func(a, b int) int { return cmp.Compare(b, a) })
	var m Measures
	for i, grade := range first {
		if grade < Good {
			continue
		}
		m.Recall10 += 1 / float64(good)
		if i == 0 {
			m.Recall1 = 1 / float64(good)
		}
		if m.MRR == 0 {
			m.MRR = 1 / float64(i+1)
		}
	}
	// Adding shares up may end a hair above the whole.
	m.Recall10 = min(1, m.Recall10)
	if best := gain(ideal[:min(len(ideal), Depth)]); best > 0 {
		m.NDCG10 = gain(first) / best
	}
	return m
}

func gain(grades []int) float64 {
	sum := 0.0
	for i, grade := range grades {
		sum += (math.Pow(2, float64(grade)) - 1) / math.Log2(float64(i+2))
	}
	return sum
}

// Estimate is a mean with its 95 % confidence interval.
type Estimate struct{ Mean, Low, High float64 }

// resamples of a bootstrap; the ends of an interval move by less than 0.01 with
// more.
const resamples = 2000

// bootstrap returns the mean of values with the percentile interval of Efron and
// Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. The same values
// give the same interval: the generator is seeded alike for each call.
func bootstrap(values []float64) Estimate {
	if len(values) == 0 {
		return Estimate{}
	}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a repeatable experiment, no secret
	means := make([]float64, resamples)
	for i := range means {
		sum := 0.0
		for range values {
			sum += values[random.IntN(len(values))]
		}
		means[i] = sum / float64(len(values))
	}
	slices.Sort(means)
	return Estimate{Mean: mean(values), Low: means[resamples*25/1000], High: means[resamples*975/1000-1]}
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

package llm

import (
	"math"
	"unicode/utf8"
)

const (
	wordWeight = 1.0  // a word's stem
	pairWeight = 0.5  // two stems side by side
	partWeight = 1.0  // all pieces of a word together
	stopWeight = 0.15 // of a word without topic, to all of the above
)

// embed returns a text's vector of length 1: signed feature hashing (Weinberger
// et al., "Feature Hashing for Large Scale Multitask Learning", 2009) of stems,
// pairs of stems and pieces of three and four letters, each with the weight
// 1 + ln(times it occurs). The pieces are what forgives typos.
func embed(text string, dimension int) []float32 {
	f := features{at: make(map[uint64]int, 8*len(text)/5)}
	previous, previousWeight := "", 0.0
	for _, word := range words(text) {
		weight := 1.0
		if stopWords[word] {
			weight = stopWeight
		}
		s := stem(word)
		f.add(hash('w', s, ""), wordWeight*weight)
		if previous != "" {
			f.add(hash('p', previous, s), pairWeight*min(weight, previousWeight))
		}
		f.addPieces(word, weight)
		previous, previousWeight = s, weight
	}
	vector := make([]float32, dimension)
	places := uint64(len(vector))
	for _, x := range f.list { // in the order of the text: floating-point sums depend on it
		value := x.weight * (1 + math.Log(x.times))
		if x.hash>>63 == 1 {
			value = -value
		}
		vector[(x.hash&math.MaxInt64)%places] += float32(value)
	}
	var squares float64
	for _, v := range vector {
		squares += float64(v) * float64(v)
	}
	if squares == 0 { // no words, or all of them cancelled out: any direction will do, as long as it is one
		vector[hash('t', text, "")%places] = 1
		return vector
	}
	scale := float32(1 / math.Sqrt(squares))
	for i := range vector {
		vector[i] *= scale
	}
	return vector
}

type feature struct {
	hash          uint64
	weight, times float64
}

type features struct {
	list []feature
	at   map[uint64]int
}

func (f *features) add(hash uint64, weight float64) {
	if i, ok := f.at[hash]; ok {
		f.list[i].times++
		return
	}
	f.at[hash] = len(f.list)
	f.list = append(f.list, feature{hash: hash, weight: weight, times: 1})
}

// addPieces adds the pieces of a word, its ends marked. Their squares sum up to
// the same for a long word as for a short one.
func (f *features) addPieces(word string, weight float64) {
	marked := "^" + word + "$"
	n := 0
	for _, size := range []int{3, 4} {
		n += max(utf8.RuneCountInString(marked)-size+1, 0)
	}
	if n == 0 {
		return
	}
	each := partWeight * weight / math.Sqrt(float64(n))
	starts := make([]int, 0, len(marked)+1)
	for i := range marked {
		starts = append(starts, i)
	}
	starts = append(starts, len(marked))
	for _, size := range []int{3, 4} {
		for i := 0; i+size < len(starts); i++ {
			f.add(hash('c', marked[starts[i]:starts[i+size]], ""), each)
		}
	}
}

// hash is FNV-1a with the finaliser of MurmurHash3, whose high bit (the sign) and
// low bits (the place) do not depend on each other. It is the same in every run.
func hash(kind byte, a, b string) uint64 {
	h := (uint64(14695981039346656037) ^ uint64(kind)) * 1099511628211
	for i := range len(a) {
		h = (h ^ uint64(a[i])) * 1099511628211
	}
	h = (h ^ ' ') * 1099511628211
	for i := range len(b) {
		h = (h ^ uint64(b[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

package pull

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"drover/checkpoint"
	"drover/model"
)

// Experts says which routed experts of every layer are wanted. The zero value means the
// whole model; any other one leaves out everything that is not a routed expert, but for what
// a coordinator needs before it starts.
type Experts struct {
	slice, of int      // slice 1 to of
	spans     [][2]int // or first and last
	role      string   // or what a role needs that reads the rest when it must
}

// The roles of ParseRole.
const (
	coordinator = "coordinator"
	expertNode  = "expertnode"
)

// ParseRole reads "coordinator": everything but routed experts, or "expertnode": no weights but
// what the digest covers.
func ParseRole(text string) (Experts, error) {
	if text != coordinator && text != expertNode {
		return Experts{}, fmt.Errorf("role %q must be %s or %s", text, coordinator, expertNode)
	}
	return Experts{role: text}, nil
}

// ParseSlice reads "2/4": the second of four equal slices of the experts.
func ParseSlice(text string) (Experts, error) {
	i, n, ok := strings.Cut(text, "/")
	slice, err1 := strconv.Atoi(i)
	of, err2 := strconv.Atoi(n)
	if !ok || err1 != nil || err2 != nil || of < 1 || of > 1<<16 || slice < 1 || slice > of {
		return Experts{}, fmt.Errorf("slice %q must be i/n with i from 1 to n", text)
	}
	return Experts{slice: slice, of: of}, nil
}

// ParseExperts reads "0-31,64": experts by their index.
func ParseExperts(text string) (Experts, error) {
	var e Experts
	for s := range strings.SplitSeq(text, ",") {
		first, last, span := strings.Cut(s, "-")
		if !span {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || a < 0 || b < a || b > 1<<16 || len(e.spans) == 1<<12 {
			return Experts{}, fmt.Errorf("experts %q must be indices and ranges, as in 0-31,64", text)
		}
		e.spans = append(e.spans, [2]int{a, b})
	}
	return e, nil
}

// All reports whether the whole model is wanted.
func (e Experts) All() bool { return e.of == 0 && len(e.spans) == 0 && e.role == "" }

// String says which ones, as they are written on a command line.
func (e Experts) String() string {
	switch {
	case e.role != "":
		return "none, for " + e.role
	case e.of > 0:
		return fmt.Sprintf("%d/%d", e.slice, e.of)
	}
	var all []string
	for _, s := range e.spans {
		all = append(all, fmt.Sprintf("%d-%d", s[0], s[1]))
	}
	return strings.Join(all, ",")
}

// has reports whether an expert of so many is wanted.
func (e Experts) has(expert, count int) bool {
	if e.of > 0 {
		return expert >= count*(e.slice-1)/e.of && expert < count*e.slice/e.of
	}
	for _, s := range e.spans {
		if expert >= s[0] && expert <= s[1] {
			return true
		}
	}
	return false
}

// choose lists the bytes of the wanted experts, by file, or of what a role needs.
func (e Experts) choose(ck *checkpoint.Checkpoint) (map[string][]checkpoint.Range, error) {
	switch e.role {
	case coordinator:
		return textOf(ck)
	case expertNode:
		return map[string][]checkpoint.Range{}, nil
	}
	return e.ofExperts(ck)
}

// textOf lists the bytes of everything that a coordinator computes with.
func textOf(ck *checkpoint.Checkpoint) (map[string][]checkpoint.Range, error) {
	all := map[string][]checkpoint.Range{}
	for _, name := range ck.Names() {
		if model.PartOf(name) != model.TextPart {
			continue
		}
		t, err := ck.Tensor(name)
		if err != nil {
			return nil, err
		}
		file := filepath.Base(t.File())
		all[file] = append(all[file], t.Range())
	}
	return all, nil
}

// ofExperts lists the bytes of the wanted experts, by file: a range for each matrix of each.
// Experts are slices of one tensor, or tensors with a number in their names.
func (e Experts) ofExperts(ck *checkpoint.Checkpoint) (map[string][]checkpoint.Range, error) {
	count := 0
	numbers := map[string]int{}
	var stacked []string
	for _, name := range ck.Names() {
		_, rest, ok := strings.Cut(name, ".experts.")
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(digits); err == nil && n >= 0 && n <= 1<<16 {
			numbers[name] = n
			count = max(count, n+1)
			continue
		}
		stacked = append(stacked, name)
	}
	all := map[string][]checkpoint.Range{}
	found := false
	add := func(t checkpoint.Tensor) {
		file := filepath.Base(t.File())
		all[file] = append(all[file], t.Range())
		found = true
	}
	for name, n := range numbers {
		t, err := ck.Tensor(name)
		if err != nil {
			return nil, err
		}
		if e.has(n, count) {
			add(t)
		}
	}
	for _, name := range stacked {
		if err := e.chooseStacked(ck, name, add); err != nil {
			return nil, err
		}
	}
	if count == 0 && len(stacked) == 0 {
		return nil, errors.New("the model has no routed experts: pull it whole")
	}
	if !found {
		return nil, fmt.Errorf("the model has none of the experts %s", e)
	}
	return all, nil
}

func (e Experts) chooseStacked(ck *checkpoint.Checkpoint, name string,
	add func(checkpoint.Tensor)) error {
	t, err := ck.Tensor(name)
	if err != nil || len(t.Shape) == 0 {
		return err
	}
	for i := range t.Shape[0] {
		if !e.has(i, t.Shape[0]) {
			continue
		}
		expert, err := t.Index(i)
		if err != nil {
			return err
		}
		add(expert)
	}
	return nil
}

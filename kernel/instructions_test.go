package kernel

import "testing"

func TestSetInstructions(t *testing.T) {
	best := Instructions()
	defer func() {
		if err := SetInstructions(best); err != nil {
			t.Error(err)
		}
	}()
	for i, name := range instructionNames {
		err := SetInstructions(name)
		if has := instructions(i) <= detect(); (err == nil) != has {
			t.Errorf("%s: error %v, the machine has it: %v", name, err, has)
		}
		if err == nil && Instructions() != name {
			t.Errorf("set %s, got %s", name, Instructions())
		}
	}
	if err := SetInstructions("sse9"); err == nil {
		t.Error("unknown instructions: no error")
	}
}

package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"drover/checkpoint"
	"drover/internal/answer"
	"drover/model"
	"drover/moe"
	"drover/tokenizer"
)

// malformedCase is a directory with one thing wrong, or nothing.
type malformedCase struct {
	Dir         string
	WhatIsWrong string `json:"what_is_wrong"`
	Expected    string
}

// loads says whether the case is a sound model.
func (c malformedCase) loads() bool { return strings.HasPrefix(c.Expected, "loads") }

// mayRun says whether the model may load, if running it is refused.
func (c malformedCase) mayRun() bool { return strings.Contains(c.Expected, "run time") }

// Loading may allocate extraBytes beyond the size of the files, and take maxLoad.
const (
	extraBytes = 64 << 20
	maxLoad    = time.Second
)

// checkMalformed loads every directory of the list: it must end as expected, within bounds of
// memory and time, and a refusal must be one line that names the file.
func checkMalformed(ctx context.Context, v *verifier, f fixture) error {
	var list struct{ Cases []malformedCase }
	if err := readJSON(f.beside("cases.json"), &list); err != nil {
		v.report(Result{Name: f.name, Status: Failed, Detail: err.Error()})
		return nil
	}
	for _, mc := range list.Cases {
		name := f.name + "/" + mc.Dir
		if mc.Dir == "" || mc.Dir != filepath.Base(mc.Dir) {
			v.report(Result{Name: name, Status: Failed, Detail: "cases.json names no folder in it"})
			continue
		}
		c := &check{}
		unsupported := v.malformed(ctx, c, mc, f.beside(mc.Dir))
		if unsupported != nil {
			v.report(Result{Name: name, Status: Unsupported, Detail: unsupported.Error()})
			continue
		}
		v.done(name, c)
	}
	if len(list.Cases) == 0 {
		v.done(f.name, &check{})
	}
	return nil
}

// malformed checks one case. The error says that this build cannot, because the directory's
// architecture is refused before what is wrong with it is seen.
func (v *verifier) malformed(
	ctx context.Context, c *check, mc malformedCase, dir string,
) (unsupported error) {
	size, err := folderBytes(dir)
	if err != nil {
		c.fail("%v", err)
		return nil
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	err = v.load(dir)
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	if took > maxLoad {
		c.fail("loading took %v, more than %v", took, maxLoad)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > uint64(size)+extraBytes {
		c.fail("loading %d bytes of files allocated %d MB", size, used>>20)
	}
	if err == nil && v.opts.Open != nil {
		err = v.runOnce(ctx, dir)
	} else if err == nil && mc.mayRun() {
		return errors.New("loads, and whether it is refused at run time shows only without an endpoint")
	}
	c.compared++
	switch {
	case errors.Is(err, model.ErrUnsupported) && !strings.Contains(mc.WhatIsWrong, "model_type"):
		return err
	case mc.loads() && err != nil:
		c.fail("%v", err)
	case mc.loads():
	case err == nil:
		c.fail("loads, but %s", mc.WhatIsWrong)
	case strings.ContainsAny(err.Error(), "\r\n"):
		c.fail("the error has more than one line: %q", err)
	case !mc.mayRun() && !namesFile(err, dir):
		c.fail("the error names no file: %q", err)
	default:
		c.note = "refused: " + strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "")
	}
	return nil
}

// load reads everything of a model directory, as far as this process needs it. A panic is a
// failure like any other error that names no file.
func (v *verifier) load(dir string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	ck, err := checkpoint.Open(dir)
	if err != nil {
		return err
	}
	defer ck.Close()
	_, err = tokenizer.Load(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	opts := model.Options{Mode: v.mode}
	src, err := model.OpenExperts(ck, opts)
	if err != nil {
		return err
	}
	if _, err := model.Open(ck, opts, noExperts{}); err != nil {
		return err
	}
	spec := src.Spec()
	for _, layer := range spec.Layers {
		for e := range spec.Experts {
			if _, err := src.Load(layer, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// noExperts stands for the experts of a model that is loaded and not run.
type noExperts struct{}

func (noExperts) Forward(context.Context, *moe.Batch, func()) error {
	return errors.New("the model was opened without experts")
}

// runOnce runs the model over a few tokens.
func (v *verifier) runOnce(ctx context.Context, dir string) error {
	client, stop, err := v.opts.Open(ctx, dir, v.mode)
	if err != nil {
		return err
	}
	defer stop()
	_, err = answer.Score(ctx, client, []int32{1, 2, 3}, false)
	return err
}

func namesFile(err error, dir string) bool {
	text := err.Error()
	if strings.Contains(text, dir) {
		return true
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return false
	}
	for _, e := range entries {
		if strings.Contains(text, e.Name()) {
			return true
		}
	}
	return false
}

func folderBytes(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := int64(0)
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return 0, err
		}
		n += st.Size()
	}
	return n, nil
}

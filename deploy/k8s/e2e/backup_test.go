//go:build kube

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"drover/internal/identity"
)

// restoreEtcd backs etcd up, makes another state of that in the same volume, and has etcd start
// with it: as docs/operations.md says, while clients ask. The placement follows afterwards.
func restoreEtcd(t *testing.T, a *asking) {
	began := time.Now()
	const file, dir = "/data/backup", "/data/restored"
	in := []string{"exec", etcdPod, "--", "/drover", "etcd"}
	must(t, "kubectl", append(in, "backup", "--etcd=https://127.0.0.1:2379", "--tls=/tls", file)...)
	peer := "https://" + etcdPod + ".drover-etcd.default.svc:2380"
	must(t, "kubectl", append(in, "restore", "--dir="+dir, "--name="+etcdPod,
		"--advertise-peer="+peer, "--initial-cluster="+etcdPod+"="+peer, file)...)
	before := storeRevision(t)
	must(t, "helm", "upgrade", release, chart, "--reuse-values", "--set",
		"etcd.extraArgs={--dir="+dir+"}", "--wait", "--timeout", patience.String())
	// A state that was restored has revisions far above those of any client.
	if now := storeRevision(t); now < before+1e6 {
		t.Errorf("etcd's revision is %d, %d before: it has not started with what was restored", now, before)
	}
	a.more(t)
	for _, n := range []int{3, 4} {
		scaleTo(t, n)
		whole(t, n)
	}
	t.Logf("etcd backed up, restored and used in %.1f s", time.Since(began).Seconds())
}

var storeRevisionLine = regexp.MustCompile(`(?m)^etcd_debugging_mvcc_current_revision (\S+)$`)

// storeRevision is etcd's own, as it tells those who look at metrics.
func storeRevision(t *testing.T) (revision int64) {
	t.Helper()
	id := as(t, identity.Metrics)
	within(t, patience, "etcd's revision", func() error {
		all, err := addresses("etcd")
		if err != nil {
			return err
		}
		code, text, err := get(t, id, true, "https://"+all[0]+":9090/metrics", "")
		found := storeRevisionLine.FindStringSubmatch(text)
		if err != nil || code != http.StatusOK || found == nil {
			return fmt.Errorf("%d, %w", code, errors.Join(err, errors.New("it does not say")))
		}
		n, err := strconv.ParseFloat(found[1], 64)
		revision = int64(n)
		return err
	})
	return revision
}

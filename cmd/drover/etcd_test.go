package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// readyEtcd is what a member logs when there is a leader, with its client URL.
var readyEtcd = regexp.MustCompile(`msg=ready .*client=(\S+)`)

// awaitReady waits until a member of etcd is ready, and returns its client URL.
func awaitReady(t *testing.T, p *process) (url string) {
	t.Helper()
	eventually(t, 30*slack*time.Second, "etcd is ready", func() (bool, string) {
		found := readyEtcd.FindStringSubmatch(p.errors.String())
		if found == nil {
			return false, p.errors.String()
		}
		url = found[1]
		return true, ""
	})
	return url
}

// startEtcd starts an etcd of one member and returns its URL.
func startEtcd(t *testing.T) string {
	t.Helper()
	return awaitReady(t, launch(t, place{}, "etcd", "--dir", t.TempDir(), "--plaintext",
		"--client", "http://127.0.0.1:0", "--peer", "http://127.0.0.1:0"))
}

// members is an etcd of three processes.
type members struct {
	dir, cluster string
	urls         []string // of clients
	peers        []string
	running      []*process
}

// startMembers starts three members, which find each other by addresses that are theirs
// over restarts: nobody else listens on this loopback host, and the ports are none that
// connections start from.
func startMembers(t *testing.T) *members {
	t.Helper()
	host := "127.0.0.1"
	own := net.IPv4(127, 1+byte(os.Getpid()>>16), byte(os.Getpid()>>8), byte(os.Getpid())).String()
	if l, err := net.Listen("tcp", own+":0"); err == nil {
		host = own // Linux has the whole network on loopback
		l.Close()
	}
	m := &members{dir: t.TempDir()}
	var all []string
	for i := range 3 {
		m.urls = append(m.urls, fmt.Sprintf("http://%s:%d", host, 23790+i))
		m.peers = append(m.peers, fmt.Sprintf("http://%s:%d", host, 23800+i))
		all = append(all, fmt.Sprintf("m%d=%s", i, m.peers[i]))
	}
	m.cluster = strings.Join(all, ",")
	m.running = make([]*process, 3)
	for i := range 3 {
		m.start(t, i)
	}
	m.ready(t)
	return m
}

// start starts one member on its state.
func (m *members) start(t *testing.T, i int) {
	t.Helper()
	name := fmt.Sprintf("m%d", i)
	m.running[i] = launch(t, place{}, "etcd", "--dir", filepath.Join(m.dir, name), "--name", name,
		"--client", m.urls[i], "--peer", m.peers[i], "--initial-cluster", m.cluster, "--plaintext",
		"--admin", "127.0.0.1:0")
}

// ready waits until all members are.
func (m *members) ready(t *testing.T) {
	t.Helper()
	for _, p := range m.running {
		awaitReady(t, p)
	}
}

// signal sends a signal to all members.
func (m *members) signal(s os.Signal) {
	for _, p := range m.running {
		p.signal(s)
	}
}

// client connects to the members until the test ends.
func (m *members) client(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: m.urls, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// leader returns the number of the member that leads.
func (m *members) leader(t *testing.T, c *clientv3.Client) (leader int) {
	t.Helper()
	eventually(t, 20*slack*time.Second, "a leader", func() (bool, string) {
		for i, url := range m.urls {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			s, err := c.Status(ctx, url)
			cancel()
			if err == nil && s.Leader == s.Header.MemberId {
				leader = i
				return true, ""
			}
		}
		return false, "no member says so"
	})
	return leader
}

// put writes a key, again until that is done: a leader may be missing.
func (m *members) put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	eventually(t, 20*slack*time.Second, "a write to etcd", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := c.Put(ctx, key, value)
		return err == nil, fmt.Sprint(err)
	})
}

// compact forgets all revisions but the newest.
func (m *members) compact(t *testing.T, c *clientv3.Client) {
	t.Helper()
	eventually(t, 20*slack*time.Second, "a compaction", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, err := c.Get(ctx, "nothing")
		if err == nil {
			_, err = c.Compact(ctx, r.Header.Revision)
		}
		return err == nil, fmt.Sprint(err)
	})
}

// revoke ends all leases.
func (m *members) revoke(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*slack*time.Second)
	defer cancel()
	r, err := c.Leases(ctx)
	if err != nil || len(r.Leases) == 0 {
		t.Fatalf("leases: %v, %v", r, err)
	}
	for _, l := range r.Leases {
		if _, err := c.Revoke(ctx, l.ID); err != nil {
			t.Log(err) // it may have ended, and another come in its place
		}
	}
}

// TestEtcdMembers runs three members: two go on without the third, which comes back to
// the same state. Each tells how long its disk takes.
func TestEtcdMembers(t *testing.T) {
	m := startMembers(t)
	c := m.client(t)
	m.put(t, c, "k", "kept")
	first := m.leader(t, c)
	m.running[first].signal(os.Kill)
	m.running[first].wait(5 * slack * time.Second)
	if next := m.leader(t, c); next == first {
		t.Errorf("member %d leads, and was killed", next)
	}
	m.put(t, c, "k", "changed")
	m.start(t, first)
	m.ready(t)
	back := m.client(t)
	back.SetEndpoints(m.urls[first])
	eventually(t, 20*slack*time.Second, "the third has what was written", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, err := back.Get(ctx, "k", clientv3.WithSerializable())
		return err == nil && len(r.Kvs) == 1 && string(r.Kvs[0].Value) == "changed", fmt.Sprint(r, err)
	})
	for _, p := range m.running {
		p.tells(t, "etcd_disk_wal_fsync_duration_seconds_count", isMore)
	}
	for _, p := range m.running {
		p.signal(os.Interrupt)
	}
	for _, p := range m.running {
		if code := p.wait(20 * slack * time.Second); code != exitDone {
			t.Errorf("exit code %d, want 0", code)
		}
	}
}

// TestEtcdPassword uses an etcd that wants a user and a password of everybody.
func TestEtcdPassword(t *testing.T) {
	if slack > 1 {
		t.Skip("with the race detector etcd takes a second of a processor for each password, " +
			"which on a busy machine is longer than calls wait")
	}
	const url = "http://127.0.0.1:0"
	dir := t.TempDir()
	server := launch(t, place{}, "etcd", "--dir", filepath.Join(dir, "state"), "--client", url,
		"--peer", url, "--plaintext")
	awaitReady(t, server)
	_, rest, _ := strings.Cut(server.errors.String(), "msg=ready")
	_, address, _ := strings.Cut(rest, "client=")
	r := &roles{etcd: strings.Fields(address)[0], model: demoModel(t)}
	c := (&members{urls: []string{r.etcd}}).client(t)
	const user, password = "root", "a secret word"
	_, err := c.UserAdd(t.Context(), user, password)
	if err == nil {
		_, err = c.UserGrantRole(t.Context(), user, "root")
	}
	if err == nil {
		_, err = c.AuthEnable(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		t.Helper()
		f, err := os.CreateTemp(dir, "password")
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		return f.Name()
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no file":        {[]string{"--etcd-user", user}, exitUsage, "--etcd-password-file"},
		"no user":        {[]string{"--etcd-password-file", file(password)}, exitUsage, "--etcd-user"},
		"no such file":   {[]string{"--etcd-user", user, "--etcd-password-file", "/nowhere"}, exitFailed, "/nowhere"},
		"empty":          {[]string{"--etcd-user", user, "--etcd-password-file", file("\n")}, exitFailed, "0 bytes"},
		"wrong password": {[]string{"--etcd-user", user, "--etcd-password-file", file("x")}, exitFailed, "authentication failed"},
	} {
		p := r.expertNode(t, place{}, "wrong", tc.args...)
		if code := p.wait(30 * slack * time.Second); code != tc.code ||
			!strings.Contains(p.errors.String(), tc.says) {
			t.Errorf("%s: exit code %d, want %d with %q; said: %s", name, code, tc.code, tc.says,
				&p.errors)
		}
	}
	none := r.expertNode(t, place{}, "none") // it waits, as for an etcd that is away
	eventually(t, 20*slack*time.Second, "it says what etcd wants", func() (bool, string) {
		return strings.Contains(none.errors.String(), "user name is empty"), none.errors.String()
	})
	right := []string{"--etcd-user", user, "--etcd-password-file", file(password + "\n")}
	for _, id := range []string{"left", "right"} {
		r.expertNode(t, place{}, id, right...)
	}
	_, endpoint := r.coordinator(t, place{}, append(right, "--grpc", "127.0.0.1:0")...)
	if got := connectTo(t, endpoint).mustAsk(t, translate); got != translated {
		t.Errorf("the answer is %q, want %q", got, translated)
	}
}

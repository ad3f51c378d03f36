package access

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/internal/identity"
)

// make returns a key and its line.
func key(t *testing.T, name string, expires time.Time, scopes ...Scope) (text, line string) {
	t.Helper()
	text, k, err := New(name, scopes, time.Now(), expires)
	if err != nil {
		t.Fatal(err)
	}
	return text, k.Line()
}

// TestGuard asks with every kind of key and certificate for every scope.
func TestGuard(t *testing.T) {
	alice, a := key(t, "alice", time.Time{}, Infer)
	again, b := key(t, "alice", time.Now().Add(time.Hour), Infer)
	admin, c := key(t, "admin", time.Time{}, Infer, Admin)
	old, d := key(t, "old", time.Now().Add(-time.Second), Infer)
	stranger, _ := key(t, "alice", time.Time{}, Infer, Admin)
	path := filepath.Join(t.TempDir(), "keys")
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("# keys\n\n"+strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(a, b, c, d)
	g, err := Open(path, Events{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	none, err := Open("", Events{})
	if err != nil {
		t.Fatal(err)
	}
	role := func(r identity.Role) identity.ID { return identity.ID{Cluster: "x", Role: r} }
	for _, tc := range []struct {
		guard  *Guard
		id     identity.ID
		header string
		infer  codes.Code
		admin  codes.Code
	}{
		{g, identity.ID{}, "Bearer " + alice, codes.OK, codes.PermissionDenied},
		{g, identity.ID{}, "bearer " + again, codes.OK, codes.PermissionDenied},
		{g, identity.ID{}, "Bearer " + admin, codes.OK, codes.OK},
		{g, identity.ID{}, "Bearer " + old, codes.Unauthenticated, codes.Unauthenticated},
		{g, identity.ID{}, "Bearer " + stranger, codes.Unauthenticated, codes.Unauthenticated},
		{g, identity.ID{}, "Bearer " + alice + "x", codes.Unauthenticated, codes.Unauthenticated},
		{g, identity.ID{}, "Bearer ", codes.Unauthenticated, codes.Unauthenticated},
		{g, identity.ID{}, "Basic " + alice, codes.Unauthenticated, codes.Unauthenticated},
		{g, identity.ID{}, "", codes.Unauthenticated, codes.Unauthenticated},
		{g, role(identity.Client), "", codes.OK, codes.PermissionDenied},
		{g, role(identity.Coordinator), "", codes.OK, codes.OK},
		{g, role(identity.ExpertNode), "", codes.PermissionDenied, codes.PermissionDenied},
		{g, role(identity.Coordinator), "Bearer " + old, codes.Unauthenticated, codes.Unauthenticated},
		{none, identity.ID{}, "", codes.Unauthenticated, codes.Unauthenticated},
		{none, identity.ID{}, "Bearer " + alice, codes.Unauthenticated, codes.Unauthenticated},
		{none, role(identity.Client), "", codes.OK, codes.PermissionDenied},
	} {
		for scope, want := range map[Scope]codes.Code{Infer: tc.infer, Admin: tc.admin} {
			if err := tc.guard.allow("m", scope, tc.id, tc.header); status.Code(err) != want {
				t.Errorf("%v %.20q asks for %s: %v, want %v", tc.id, tc.header, scope, err, want)
			}
		}
	}
	write(b) // the first key is taken back; the second of its name stays
	if err := g.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := g.allow("m", Infer, identity.ID{}, "Bearer "+alice); status.Code(err) !=
		codes.Unauthenticated {
		t.Errorf("a key that was taken back: %v", err)
	}
	write("nonsense")
	if err := g.Reload(); err == nil {
		t.Error("a bad file is in force")
	}
	if err := g.allow("m", Infer, identity.ID{}, "Bearer "+again); err != nil {
		t.Errorf("after a bad file: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	_, line := key(t, "a", time.Time{}, Infer)
	for _, text := range []string{"a", "a sha256:00:00", strings.Replace(line, "a ", "A ", 1),
		strings.Replace(line, "infer", "root", 1), strings.Replace(line, "scopes=infer", "scopes=", 1),
		line + " more=x", line + " expires=soon", strings.Repeat(line+"\n", maxSameName+1)} {
		if _, err := Parse([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("Parse(%.40q) = %v", text, err)
		}
	}
	for _, name := range []string{"", "A", "a_b", "a b", strings.Repeat("a", maxName+1)} {
		if _, _, err := New(name, []Scope{Infer}, time.Now(), time.Time{}); err == nil {
			t.Errorf("New(%q) accepts it", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	_, k, err := New("a", []Scope{Infer, Admin}, time.Now(), time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(k.Line()))
	f.Add([]byte("# a\n\nb sha256:::"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := Parse(text)
		if err != nil {
			return
		}
		for _, keys := range all.byName {
			for _, k := range keys {
				if _, err := Parse([]byte(k.Line())); err != nil {
					t.Errorf("%q is not read again: %v", k.Line(), err)
				}
			}
		}
	})
}

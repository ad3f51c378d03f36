package localcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"drover/internal/identity"
)

// clusterName is that of every cluster of this package.
const clusterName = "default"

// identities are folders with the certificates of a cluster's roles, under its state folder
// beside the authority that signed them. The zero value is none: plain text.
type identities struct{ dir string }

// of is the folder of a role, empty if there is none.
func (i identities) of(role identity.Role) string {
	if i.dir == "" {
		return ""
	}
	return filepath.Join(i.dir, string(role))
}

// arguments are those by which a process of a role uses its folder.
func (i identities) arguments(role identity.Role) []string {
	if i.dir == "" {
		return nil
	}
	return []string{"--tls", i.of(role)}
}

// openIdentities makes the authority and the certificates that are missing under a state
// folder, and those anew of which less than half the life is left.
func openIdentities(stateDir string, now time.Time) (identities, error) {
	i := identities{filepath.Join(stateDir, "tls")}
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return i, fmt.Errorf("certificates: %w", err)
	}
	authority, err := i.authority(now)
	if err != nil {
		return i, fmt.Errorf("certificates: %w", err)
	}
	for _, role := range []identity.Role{identity.Etcd, identity.Coordinator, identity.ExpertNode} {
		if i.lasts(role, now) {
			continue
		}
		err := authority.Save(i.of(role), identity.Request{
			ID:    identity.ID{Cluster: clusterName, Role: role},
			Hosts: []string{"localhost", "127.0.0.1", "::1"}, Now: now})
		if err != nil {
			return i, fmt.Errorf("certificates: %w", err)
		}
	}
	return i, nil
}

// authority opens the authority, or makes one.
func (i identities) authority(now time.Time) (*identity.Authority, error) {
	dir := filepath.Join(i.dir, "authority")
	a, err := identity.OpenAuthority(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if a, err = identity.NewAuthority(clusterName, now, 0); err != nil {
		return nil, err
	}
	return a, identity.SaveAuthority(dir, a, false)
}

// lasts tells whether a role's folder can be used, and half of its life is left.
func (i identities) lasts(role identity.Role, now time.Time) bool {
	f, err := identity.Look(i.of(role))
	if err != nil || f.Problem != nil || f.ID != (identity.ID{Cluster: clusterName, Role: role}) {
		return false
	}
	c := f.Certificate
	return now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2))
}

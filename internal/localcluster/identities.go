package localcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"drover/internal/identity"
)

// clusterName is that of every cluster of this package.
const clusterName = "default"

// identities are folders with the certificates of a cluster's roles, under its state folder
// beside the authority that signed them. The zero value is none: plain text.
type identities struct {
	dir string
	// hosts are the names in the certificates, for clients that do not know roles.
	hosts []string
}

// of is the folder of a role, empty if there is none.
func (i identities) of(role identity.Role) string {
	if i.dir == "" {
		return ""
	}
	return filepath.Join(i.dir, string(role))
}

// arguments are those by which a process of a role uses its folder, or plain text.
func (i identities) arguments(role identity.Role) []string {
	if i.dir == "" {
		return []string{"--plaintext"}
	}
	return []string{"--tls", i.of(role)}
}

// usualHosts are the names of this machine for itself.
var usualHosts = []string{"localhost", "127.0.0.1", "::1"}

// openIdentities makes the authority and the certificates that are missing under a state
// folder, and those anew of which less than half the life is left. They name hosts beside the
// usual ones.
func openIdentities(stateDir string, hosts []string, now time.Time) (identities, error) {
	i := identities{filepath.Join(stateDir, "tls"), slices.Clone(usualHosts)}
	for _, h := range hosts {
		if !slices.Contains(i.hosts, h) {
			i.hosts = append(i.hosts, h)
		}
	}
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return i, fmt.Errorf("certificates: %w", err)
	}
	authority, err := i.authority(now)
	if err != nil {
		return i, fmt.Errorf("certificates: %w", err)
	}
	return i, i.renew(now, func() (*identity.Authority, error) { return authority, nil })
}

// renew makes the certificates that are missing, and those anew that lack a name or of which
// less than half the life is left. It opens the authority if there are some.
func (i identities) renew(now time.Time, open func() (*identity.Authority, error)) error {
	for _, role := range []identity.Role{identity.Etcd, identity.Coordinator, identity.ExpertNode} {
		sound, lasts := i.look(role, now)
		if lasts {
			continue
		}
		var err error
		r := identity.Request{ID: identity.ID{Cluster: clusterName, Role: role},
			Hosts: i.hosts, Now: now}
		if sound { // the key stays: with another one, two files would not fit for a moment
			r.Key, err = os.ReadFile(filepath.Join(i.of(role), identity.KeyFile))
		}
		if err == nil {
			err = i.save(r, open)
		}
		if err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
	}
	return nil
}

func (i identities) save(r identity.Request, open func() (*identity.Authority, error)) error {
	authority, err := open()
	if err != nil {
		return err
	}
	return authority.Save(i.of(r.ID.Role), r)
}

// renewEvery is how often a running cluster's certificates are looked at. They last a year.
const renewEvery = time.Hour

// keep renews the certificates until it is stopped, which waits for its end. The processes
// follow their folders.
func (i identities) keep(failed func(error)) (stop func()) {
	quit := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-quit:
				return
			}
			err := i.renew(time.Now(), func() (*identity.Authority, error) {
				return identity.OpenAuthority(i.authorityDir())
			})
			if err != nil {
				failed(err)
			}
		}
	})
	return func() {
		close(quit)
		running.Wait()
	}
}

func (i identities) authorityDir() string { return filepath.Join(i.dir, "authority") }

// authority opens the authority, or makes one.
func (i identities) authority(now time.Time) (*identity.Authority, error) {
	dir := i.authorityDir()
	a, err := identity.OpenAuthority(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if a, err = identity.NewAuthority(clusterName, now, 0); err != nil {
		return nil, err
	}
	return a, identity.SaveAuthority(dir, a, false)
}

// look tells whether a role's folder can be used, and whether it may stay: it has all names and
// half of its life is left.
func (i identities) look(role identity.Role, now time.Time) (sound, lasts bool) {
	f, err := identity.Look(i.of(role))
	if err != nil || f.Problem != nil || f.ID != (identity.ID{Cluster: clusterName, Role: role}) {
		return false, false
	}
	have := f.Hosts()
	for _, h := range i.hosts {
		if !slices.Contains(have, h) {
			return true, false
		}
	}
	c := f.Certificate
	return true, now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2))
}

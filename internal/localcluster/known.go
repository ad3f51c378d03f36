package localcluster

import (
	"net"
	"os"
	"path/filepath"

	"drover/internal/identity"
)

// KnownAuthority is the file in which a cluster that serves on an address tells clients of its
// user which authority signed its certificate. It lies in a folder of its own under dir, and is
// there while the cluster runs.
func KnownAuthority(dir, address string) string {
	return filepath.Join(dir, knownName(address), identity.AuthorityFile)
}

// knownName is HOST_PORT, since colons do not suit all file systems.
func knownName(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "_"
	}
	if host == "localhost" { // which is listened on as this
		host = "127.0.0.1"
	}
	name := []rune(host + "_" + port)
	for i, r := range name {
		if r == ':' || r == '/' || r == os.PathSeparator || r == '%' {
			name[i] = '-'
		}
	}
	return string(name)
}

// makeKnown tells clients the authority of each coordinator, until Close. In plain text there is
// none: what a cluster that was killed left there is removed. Clusters serve without, too: where
// the user's folder cannot be written clients are told by a flag.
func (c *Cluster) makeKnown(o Options) {
	if o.KnownDir == "" {
		return
	}
	if c.Authority == "" {
		for _, e := range c.Coordinators {
			forget(KnownAuthority(o.KnownDir, e.GRPC))
		}
		return
	}
	for _, e := range c.Coordinators {
		path := KnownAuthority(o.KnownDir, e.GRPC)
		if err := c.identities.tell(filepath.Dir(path)); err != nil {
			o.Log.Warn("clients do not find the authority by themselves: give them --ca",
				"ca", c.Authority, "error", err)
			return
		}
		c.push(func() { forget(path) })
	}
	c.Authority, c.Known = KnownAuthority(o.KnownDir, c.GRPC), true
}

// tell writes the authority's certificate into a folder.
func (i identities) tell(dir string) error {
	authority, err := identity.OpenAuthority(i.authorityDir())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, identity.AuthorityFile)) // of whichever cluster was here
	return identity.Trust(dir, authority, true)
}

// forget removes what tell wrote, if it is there.
func forget(path string) {
	_ = os.Remove(path)
	_ = os.Remove(filepath.Dir(path)) // which stays if somebody else has put a file there
}

// hosts are those at which the coordinators serve.
func (c *Cluster) hosts() (all []string) {
	for _, e := range c.Coordinators {
		for _, address := range []string{e.GRPC, e.HTTP} {
			if host, _, err := net.SplitHostPort(address); err == nil {
				all = append(all, host)
			}
		}
	}
	return all
}

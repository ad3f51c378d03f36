package pull

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
)

// source is where a model comes from.
type source struct {
	base     *url.URL
	hub      bool
	repo     string
	revision string
	commit   string // of the hub, once it is known: all files are asked for by it
}

var (
	repoName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	// A branch, a tag, a commit, or refs/pr/1.
	revisionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)
	commitName   = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

func parseSource(text, hub string) (*source, error) {
	if name, ok := strings.CutPrefix(text, "hf:"); ok {
		repo, revision, given := strings.Cut(name, "@")
		if !given {
			revision = "main"
		}
		if !repoName.MatchString(repo) || !revisionName.MatchString(revision) ||
			strings.Contains(repo+revision, "..") {
			return nil, fmt.Errorf("source %q must be hf:organisation/model or "+
				"hf:organisation/model@revision", text)
		}
		base, err := parseBase(hub)
		return &source{base: base, hub: true, repo: repo, revision: revision}, err
	}
	base, err := parseBase(text)
	return &source{base: base}, err
}

const forms = "must be https://host/folder/ or hf:organisation/model"

// parseBase reads the address of a folder. Names and passwords do not belong there: an
// address ends up in logs.
func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the source is no address: %s", forms)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, fmt.Errorf("source %q is none: %s", u.Redacted(), forms)
	case u.User != nil:
		return nil, fmt.Errorf("source %q holds a name or a password: use --token-file", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("the source on %s must be a folder, without ? and #", u.Host)
	}
	return u, nil
}

// address returns that of a file.
func (s *source) address(name string) string {
	base := strings.TrimSuffix(s.base.String(), "/")
	if !s.hub {
		return base + "/" + url.PathEscape(name)
	}
	revision := s.revision
	if s.commit != "" {
		revision = s.commit
	}
	return base + "/" + s.repo + "/resolve/" + url.PathEscape(revision) + "/" + url.PathEscape(name)
}

// owns reports whether an address is on the source's own host.
func (s *source) owns(u *url.URL) bool {
	return u.Scheme == s.base.Scheme && strings.EqualFold(u.Host, s.base.Host)
}

// allowed refuses what could be read or changed on the way.
func allowed(u *url.URL, insecure bool) error {
	if u.Scheme == "https" || u.Scheme == "http" && (insecure || loopback(u.Hostname())) {
		return nil
	}
	return refusef("%s://%s is not encrypted: use https, or --insecure if you trust the network",
		u.Scheme, u.Host)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

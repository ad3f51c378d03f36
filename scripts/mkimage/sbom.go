package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"drover/checkpoint"
)

// sbomPlace is where an image says what it was built from: the document that lies beside it.
const sbomPlace = "sbom.spdx.json"

// What SPDX says where nobody has said.
const unknown = "NOASSERTION"

// document is an SPDX 2.3 document in JSON, as far as we need it.
type document struct {
	Version       string         `json:"spdxVersion"`
	DataLicense   string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []component    `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

// component is what SPDX calls a package: a module, a program, a model.
type component struct {
	ID        string      `json:"SPDXID"`
	Name      string      `json:"name"`
	Version   string      `json:"versionInfo,omitempty"`
	Purpose   string      `json:"primaryPackagePurpose"`
	Download  string      `json:"downloadLocation"`
	Analyzed  bool        `json:"filesAnalyzed"`
	Checksums []checksum  `json:"checksums,omitempty"`
	Concluded string      `json:"licenseConcluded"`
	Declared  string      `json:"licenseDeclared"`
	Copyright string      `json:"copyrightText"`
	Source    string      `json:"sourceInfo,omitempty"`
	Comment   string      `json:"comment,omitempty"`
	Refs      []reference `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// sbom lists what a program was built from, as its linker noted it, and what else is in its
// image. Licences are those that we declare of our own, and those that modules come with.
func (s *spec) sbom(p program, content []byte, shared []file) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.file, err)
	}
	if built := setting(info, "GOOS") + "/" + setting(info, "GOARCH"); built != p.platform.String() {
		return nil, fmt.Errorf("%s is built for %s, not %s", p.file, built, p.platform)
	}
	d, err := s.describe(info, content, p.platform)
	if err != nil {
		return nil, err
	}
	if s.model != "" {
		c, err := s.modelComponent(shared)
		if err != nil {
			return nil, err
		}
		d.add(d.ID, "DESCRIBES", c)
	}
	for _, f := range shared {
		if f.name == bundlePlace {
			d.add(d.ID, "DESCRIBES", component{Name: "ca-certificates", Purpose: "FILE",
				Checksums: sha256Of(f.data), Comment: "authorities at /" + bundlePlace})
		}
	}
	libc, err := s.libc.files(p.platform)
	if err != nil {
		return nil, err
	}
	if len(libc) > 0 {
		d.add(d.ID, "DESCRIBES", s.libc.component(libc))
	}
	return d.finish()
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// describe is the document of a program and the modules in it.
func (s *spec) describe(info *debug.BuildInfo, content []byte, p platform) (*document, error) {
	name := s.inside()
	d := &document{Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT",
		Name: fmt.Sprintf("%s-%s-%s-%s", name, s.tag(), p.OS, p.Architecture),
		Creation: creation{time.Unix(s.created, 0).UTC().Format(time.RFC3339),
			[]string{"Tool: mkimage-" + s.tag()}}}
	settings := []string{info.GoVersion}
	for _, v := range info.Settings {
		settings = append(settings, v.Key+"="+v.Value)
	}
	program := d.add(d.ID, "DESCRIBES", component{Name: name, Version: s.tag(),
		Purpose: "APPLICATION", Declared: s.license, Checksums: sha256Of(content),
		Source: "built with " + strings.Join(settings, " "), Refs: purl(info.Main.Path, s.tag()),
		Comment: "the main module is " + info.Main.Path + "; the checksum is the program's"})
	version, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	d.add(program, "DEPENDS_ON", component{Name: "stdlib", Version: version, Purpose: "LIBRARY",
		Declared: stdlibLicense, Refs: purl("stdlib", version),
		Comment: "Go's standard library, of the toolchain that built the program"})
	var err error
	for _, m := range info.Deps {
		c := component{Name: m.Path, Version: m.Version, Purpose: "LIBRARY"}
		if m.Replace != nil {
			c.Comment = fmt.Sprintf("stands in for %s %s. ", m.Path, m.Version)
			m = m.Replace
			c.Name, c.Version = m.Path, m.Version
		}
		c.Refs = purl(m.Path, m.Version)
		sum, bad := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
		if bad == nil && strings.HasPrefix(m.Sum, "h1:") {
			c.Checksums = []checksum{{"SHA256", fmt.Sprintf("%x", sum)}}
			c.Comment += "The checksum is no archive's but Go's directory hash of the module, " +
				"as go.sum has it: " + m.Sum
		}
		if c.Declared, err = s.declared(m); err != nil {
			return nil, err
		}
		d.add(program, "DEPENDS_ON", c)
	}
	return d, nil
}

// stdlibLicense is Go's own. Not every distribution of Go brings its text.
const stdlibLicense = "BSD-3-Clause"

// declared is the licence of a module, which is noted if it is not understood. A folder in the
// place of a module is not in the cache.
func (s *spec) declared(m *debug.Module) (string, error) {
	if s.modules == "" {
		return unknown, nil
	}
	found := unknown
	if m.Version != "" {
		var err error
		if found, err = licenseOf(s.modules, m.Path, m.Version); err != nil {
			return "", err
		}
	}
	if found == unknown && !slices.Contains(s.unlicensed, m.Path) {
		s.unlicensed = append(s.unlicensed, m.Path)
	}
	return found, nil
}

// modelComponent is the model among an image's files. One digest is of all its files, the other
// is what nodes compare, which "drover inspect" prints.
func (s *spec) modelComponent(shared []file) (component, error) {
	c, err := checkpoint.Open(s.model)
	if err != nil {
		return component{}, err
	}
	defer c.Close()
	place := strings.TrimPrefix(s.modelPlace(), "/") + "/"
	var lines []string
	for _, f := range shared {
		if name, ok := strings.CutPrefix(f.name, place); ok {
			lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(f.data), name))
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return component{Name: path.Base(s.modelPlace()), Purpose: "OTHER",
		Declared: s.license, Checksums: sha256Of([]byte(strings.Join(lines, ""))),
		Comment: fmt.Sprintf("The checksum is of the lines that sha256sum prints of all files, "+
			"by name in bytes. Drover's digest of the model is %x.", c.Digest())}, nil
}

func sha256Of(b []byte) []checksum {
	return []checksum{{"SHA256", fmt.Sprintf("%x", sha256.Sum256(b))}}
}

// purl names a Go module for programs that look for known flaws. What has no version, such as
// a replacement by a folder, has no such name.
func purl(module, version string) []reference {
	if version == "" {
		return nil
	}
	parts := strings.Split(strings.ToLower(module), "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	locator := "pkg:golang/" + strings.Join(parts, "/") + "@" + url.QueryEscape(version)
	return []reference{{"PACKAGE-MANAGER", "purl", locator}}
}

var notInID = regexp.MustCompile(`[^a-zA-Z0-9.-]`)

// add puts a component in, and returns its identifier.
func (d *document) add(from, how string, c component) string {
	c.ID = fmt.Sprintf("SPDXRef-%d-%s", len(d.Packages), notInID.ReplaceAllString(c.Name, "-"))
	c.Download, c.Concluded, c.Copyright = unknown, unknown, unknown
	if c.Declared == "" {
		c.Declared = unknown
	}
	d.Packages = append(d.Packages, c)
	d.Relationships = append(d.Relationships, relationship{from, how, c.ID})
	return c.ID
}

// finish gives the document its namespace, which is another for each content, and writes it.
func (d *document) finish() ([]byte, error) {
	d.Namespace = fmt.Sprintf("https://spdx.org/spdxdocs/%s-%x", url.PathEscape(d.Name),
		sha256.Sum256(encode(d)))
	b, err := json.MarshalIndent(d, "", "  ")
	return append(b, '\n'), err
}

// Command mkimage writes a container image of a static program, for one or several platforms,
// as an OCI layout in a tar, which "ctr images import" and "skopeo copy oci-archive:" read, and
// if it is of one platform, every "docker load". It needs neither Docker nor a registry, and the
// same files give the same bytes. scripts/image makes Drover's with it, and scripts/kube/lab
// those of its own.
//
//	mkimage -out FILE -name HOST/PATH:TAG -program OS/ARCH=FILE [flags] [ARGUMENT…]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var s spec
	flags := flag.NewFlagSet("mkimage", flag.ExitOnError)
	out := flags.String("out", "", "tar to write")
	flags.StringVar(&s.name, "name", "", "name of the image, HOST/PATH:TAG")
	flags.StringVar(&s.license, "license", "", "SPDX expression of the program's licence")
	flags.StringVar(&s.authorities, "ca-bundle", "", "PEM file of authorities' certificates "+
		"that the program trusts; without it the image holds none")
	flags.Func("program", "OS/ARCH=FILE, the static program, which the image runs as /NAME; "+
		"repeated for an image of several platforms", s.addProgram)
	flags.Func("add", "FOLDER:PLACE, a folder whose files are put at a place; may be repeated",
		s.addFolder)
	flags.Func("state", "PLACE, an empty folder that only the program's user may enter, and whose "+
		"owner volumes there get; may be repeated", s.addState)
	flags.StringVar(&s.model, "model", "", "model directory to put under /models")
	flags.Func("libc", "FOLDER=VERSION, the root of Debian's package libc6, for a program that loads "+
		"NVIDIA's driver", s.setLibc)
	flags.Func("sbom", "list what the image is made of, in it and beside it, in a document with "+
		"this time in seconds since 1970", s.list)
	flags.StringVar(&s.modules, "modules", "", "Go's cache of modules (go env GOMODCACHE), in which "+
		"that list looks for their licences; without it they are not known")
	_ = flags.Parse(args) // it exits on an error
	s.arguments = flags.Args()
	if *out == "" || len(s.programs) == 0 || !strings.Contains(s.name, "/") || s.tag() == "" {
		return errors.New("usage: mkimage -out FILE -name HOST/PATH:TAG " +
			"-program OS/ARCH=FILE [-program …] [flags] [ARGUMENT…]")
	}
	if s.model != "" {
		s.folders = append(s.folders, folder{s.model, s.modelPlace()})
	}
	b, err := s.build()
	if err != nil {
		return err
	}
	if s.modules != "" {
		fmt.Fprintf(os.Stderr, "mkimage: modules whose licence is not understood: %d%s\n",
			len(s.unlicensed), strings.Join(append([]string{""}, s.unlicensed...), " "))
	}
	for _, f := range b.sboms {
		if err := os.WriteFile(*out+"."+f.name, f.data, 0o644); err != nil {
			return err
		}
	}
	fmt.Println(s.name, b.digest)
	return os.WriteFile(*out, b.archive, 0o644)
}

// spec says what an image is made of.
type spec struct {
	name        string // HOST/PATH:TAG
	license     string
	programs    []program // one for each platform, of the same name
	arguments   []string
	folders     []folder
	state       []string // folders in which the program writes
	authorities string   // the file of their certificates, or ""
	model       string   // its directory, or ""
	libc        libc     // its zero value for a static program
	listed      bool     // whether a list of parts is wanted
	created     int64    // its time, in seconds since 1970
	modules     string   // Go's cache of modules, or ""
	unlicensed  []string // modules of programs that were listed whose licence is not understood
}

type program struct {
	platform platform
	file     string
}

// folder is one whose files are put at a place of the image.
type folder struct{ from, to string }

func (s *spec) addProgram(arg string) error {
	where, name, _ := strings.Cut(arg, "=")
	system, arch, _ := strings.Cut(where, "/")
	if system == "" || arch == "" || strings.Contains(arch, "/") || name == "" {
		return fmt.Errorf("%q is not OS/ARCH=FILE", arg)
	}
	p := program{platform{Architecture: arch, OS: system}, name}
	for _, other := range s.programs {
		if other.platform == p.platform {
			return fmt.Errorf("%s has two programs", p.platform)
		}
		if filepath.Base(other.file) != filepath.Base(name) {
			return fmt.Errorf("%s and %s: programs of one image have the same name",
				other.file, name)
		}
	}
	s.programs = append(s.programs, p)
	return nil
}

func (s *spec) addFolder(arg string) error {
	at := strings.LastIndex(arg, ":")
	if at < 1 || !path.IsAbs(arg[at+1:]) {
		return fmt.Errorf("%q is not FOLDER:PLACE with a place that begins with /", arg)
	}
	s.folders = append(s.folders, folder{arg[:at], arg[at+1:]})
	return nil
}

func (s *spec) addState(arg string) error {
	if !path.IsAbs(arg) || path.Clean(arg) != arg || arg == "/" {
		return fmt.Errorf("%q is not a place in the image, such as /state", arg)
	}
	s.state = append(s.state, arg)
	return nil
}

func (s *spec) list(arg string) error {
	created, err := strconv.ParseUint(arg, 10, 33)
	s.listed, s.created = true, int64(created)
	return err
}

// tag is what follows the last colon of the image's name.
func (s *spec) tag() string {
	if at := strings.LastIndex(s.name, ":"); at > strings.LastIndex(s.name, "/") {
		return s.name[at+1:]
	}
	return ""
}

// inside is the program's name in the image.
func (s *spec) inside() string { return filepath.Base(s.programs[0].file) }

// modelPlace is where the model lies in the image.
func (s *spec) modelPlace() string { return "/models/" + filepath.Base(s.model) }

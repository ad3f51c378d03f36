// Package check holds deploy/compose against the specification of compose files, against the
// program and against the image. scripts/compose-check runs it on Docker.
package check

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// load reads the file as Compose does, with no variables set; what the specification does not
// know is an error.
func load(t *testing.T) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{"../compose.yaml"}, cli.WithProfiles([]string{"*"}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Services) == 0 {
		t.Fatal("there are no services")
	}
	return p
}

// TestConfined checks what every container is kept from.
func TestConfined(t *testing.T) {
	for name, s := range load(t).Services {
		t.Run(name, func(t *testing.T) {
			if !s.ReadOnly || s.Privileged || s.User != "65532:65532" ||
				!slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 ||
				!slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
				t.Errorf("it may do too much: %+v", s)
			}
			if s.MemLimit <= 0 || s.PidsLimit <= 0 || s.Logging == nil ||
				s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
				t.Errorf("something has no bound: memory %d, processes %d, log %+v", s.MemLimit,
					s.PidsLimit, s.Logging)
			}
			for _, dir := range s.Tmpfs {
				if !strings.Contains(dir, "size=") || !strings.Contains(dir, "noexec") {
					t.Errorf("tmpfs %s", dir)
				}
			}
			if s.ContainerName != "" {
				t.Errorf("the name %s keeps it from being there twice", s.ContainerName)
			}
			for _, port := range s.Ports {
				if port.HostIP != "127.0.0.1" {
					t.Errorf("port %d is published on %q", port.Target, port.HostIP)
				}
			}
			for _, v := range s.Volumes {
				if v.Type != types.VolumeTypeVolume {
					t.Errorf("%s is a %s of the machine", v.Target, v.Type)
				}
			}
		})
	}
}

// once tells whether a service ends by itself.
func once(s types.ServiceConfig) bool { return s.Restart == "no" }

// TestSecrets checks who can read the key of the authority, and the certificates of others.
func TestSecrets(t *testing.T) {
	for name, s := range load(t).Services {
		for _, v := range s.Volumes {
			certificate := strings.HasPrefix(v.Source, "tls-")
			secret := certificate || v.Source == "authority" || v.Source == "gossip"
			switch {
			case v.Source == "authority" && (!once(s) || s.NetworkMode != "none"):
				t.Errorf("%s has the key of the authority", name)
			case secret && !once(s) && !v.ReadOnly:
				t.Errorf("%s can change %s", name, v.Source)
			case !once(s) && certificate && v.Source != "tls-"+name:
				t.Errorf("%s has the certificate %s", name, v.Source)
			}
		}
	}
}

// TestOrder checks that services wait for what they need, and are healthy when they say so.
func TestOrder(t *testing.T) {
	p := load(t)
	for name, s := range p.Services {
		for of, how := range s.DependsOn {
			want := types.ServiceConditionHealthy
			if once(p.Services[of]) {
				want = types.ServiceConditionCompletedSuccessfully
			}
			if how.Condition != want {
				t.Errorf("%s waits until %s is %s, want %s", name, of, how.Condition, want)
			}
		}
		// Who mounts a volume read-only waits for who fills it.
		for _, v := range s.Volumes {
			for filler, by := range p.Services {
				fills := slices.ContainsFunc(by.Volumes, func(o types.ServiceVolumeConfig) bool {
					return o.Source == v.Source && !o.ReadOnly
				})
				if v.ReadOnly && fills && !waits(p, s, filler) {
					t.Errorf("%s mounts %s and does not wait for %s", name, v.Source, filler)
				}
			}
		}
		serves := slices.Contains(s.Command, "--admin=127.0.0.1:9090")
		if serves != (s.HealthCheck != nil) || serves && s.StopGracePeriod == nil {
			t.Errorf("%s serves health: %v, is asked for it: %v", name, serves, s.HealthCheck)
		}
	}
}

// waits tells whether a service waits for another, or for one that does.
func waits(p *types.Project, s types.ServiceConfig, other string) bool {
	for of := range s.DependsOn {
		if of == other || waits(p, p.Services[of], other) {
			return true
		}
	}
	return false
}

// TestDrain checks that a node that is stopped has time to hand over.
func TestDrain(t *testing.T) {
	s := load(t).Services["expertnode"]
	const flag = "--drain-timeout="
	i := slices.IndexFunc(s.Command, func(a string) bool { return strings.HasPrefix(a, flag) })
	if i < 0 {
		t.Fatal("there is no " + flag)
	}
	drain, err := time.ParseDuration(strings.TrimPrefix(s.Command[i], flag))
	if err != nil {
		t.Fatal(err)
	}
	if grace := time.Duration(*s.StopGracePeriod); grace < drain+10*time.Second {
		t.Errorf("a node drains for %v and is killed after %v", drain, grace)
	}
}

// TestImage checks that where volumes are mounted the image has folders of the user's: a new
// volume gets their owner.
func TestImage(t *testing.T) {
	script, err := os.ReadFile("../../../scripts/image")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`for dir in (.*); do\n\s+state\+=\(-state "\$dir"\)`).FindSubmatch(script)
	if m == nil {
		t.Fatal("scripts/image names no folders of state")
	}
	out, err := exec.Command("bash", "-c", "echo "+string(m[1])).Output()
	if err != nil {
		t.Fatal(err)
	}
	folders := strings.Fields(string(out))
	for name, s := range load(t).Services {
		for _, v := range s.Volumes {
			if !slices.Contains(folders, v.Target) {
				t.Errorf("%s mounts a volume at %s; the image has %v", name, v.Target, folders)
			}
		}
	}
}

// TestVersion checks that the image is the one that scripts/image builds.
func TestVersion(t *testing.T) {
	chart, err := os.ReadFile("../../k8s/drover/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^appVersion: (.*)$`).FindSubmatch(chart)
	if version == nil {
		t.Fatal("the chart has no version")
	}
	for name, s := range load(t).Services {
		if want := "localhost/drover:" + string(version[1]); s.Image != want {
			t.Errorf("%s runs %s, want %s", name, s.Image, want)
		}
	}
}

// drover is the program, which TestMain builds.
var drover string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "drover-*")
	if err == nil {
		defer os.RemoveAll(dir)
		drover = filepath.Join(dir, "drover")
		c := exec.Command("go", "build", "-o", drover, "./cmd/drover")
		c.Dir, c.Stdout, c.Stderr = "../../..", os.Stderr, os.Stderr
		err = c.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build drover:", err)
		return 1
	}
	return m.Run()
}

var flagInHelp = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)`)

// TestFlags looks for every flag of a command line, and of a check of health, in the help that
// the program prints for that command.
func TestFlags(t *testing.T) {
	for name, s := range load(t).Services {
		lines := [][]string{s.Command}
		if s.HealthCheck != nil {
			if len(s.HealthCheck.Test) < 3 || s.HealthCheck.Test[0] != "CMD" ||
				s.HealthCheck.Test[1] != "/drover" {
				t.Fatalf("%s: the check of health is %v; the image has no shell", name, s.HealthCheck.Test)
			}
			lines = append(lines, s.HealthCheck.Test[2:])
		}
		for _, line := range lines {
			var words []string
			for _, a := range line {
				if strings.HasPrefix(a, "-") {
					break
				}
				words = append(words, a)
			}
			help, err := exec.Command(drover, append(words, "--help")...).Output()
			if err != nil {
				t.Fatalf("%s: %v --help: %v", name, words, err)
			}
			known := map[string]bool{}
			for _, m := range flagInHelp.FindAllSubmatch(help, -1) {
				known[string(m[1])] = true
			}
			for _, a := range line {
				flag, _, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
				if strings.HasPrefix(a, "-") && !known[flag] {
					t.Errorf("%s: %v has no flag %s", name, words, a)
				}
			}
		}
	}
}

// TestOnce runs what is to run at each start twice, in order, on folders of this test: the first
// time it makes what services mount, the second time it changes nothing.
func TestOnce(t *testing.T) {
	root := t.TempDir()
	p := load(t)
	var names []string
	for name, s := range p.Services {
		if once(s) {
			names = append(names, name)
		}
	}
	// Those that nothing must precede come first; there are two ranks.
	slices.SortFunc(names, func(a, b string) int {
		return len(p.Services[a].DependsOn) - len(p.Services[b].DependsOn)
	})
	var first map[string][]byte
	for range 2 {
		for _, name := range names {
			var args []string
			for _, a := range p.Services[name].Command {
				if flag, path, ok := strings.Cut(a, "=/"); ok {
					a = flag + "=" + filepath.Join(root, path)
				}
				args = append(args, a)
			}
			if out, err := exec.Command(drover, args...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, out)
			}
		}
		now := contents(t, root)
		if first == nil {
			first = now
		}
		if !maps.EqualFunc(first, now, bytes.Equal) {
			t.Error("the second time changed something")
		}
	}
	for _, name := range []string{"authority/ca.key", "gossip/key", "tls/etcd/tls.key",
		"tls/coordinator/tls.crt", "tls/expertnode/tls.crt", "tls/client/ca.crt"} {
		if len(first[name]) == 0 {
			t.Errorf("there is no %s", name)
		}
	}
}

// contents are all files under a folder.
func contents(t *testing.T, root string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

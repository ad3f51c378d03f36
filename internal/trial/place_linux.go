package trial

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// place is where processes run: a thread that starts them, in a network namespace of its own or
// in this process's. Linux ends a child with the thread that started it, so the thread lives
// until close. The namespace is gone when its thread and its processes are: nothing is left behind.
type place struct {
	address string // that its processes have
	tid     int
	work    chan func()
}

// newPlace makes a place at an address; apart gives it a namespace of its own.
func newPlace(address string, apart bool) (*place, error) {
	p := &place{address: address, work: make(chan func())}
	made := make(chan error)
	go func() {
		// Never unlocked: the thread's namespace is another one, so it ends with the goroutine.
		runtime.LockOSThread()
		p.tid = unix.Gettid()
		if apart {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				made <- fmt.Errorf("make a network namespace: %w", err)
				return
			}
		}
		made <- nil
		for f := range p.work {
			f()
		}
	}()
	return p, <-made
}

func (p *place) close() { close(p.work) }

// do runs f on the place's thread.
func (p *place) do(f func() error) (err error) {
	done := make(chan struct{})
	p.work <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

// command runs a short command there.
func (p *place) command(line string) error {
	return p.do(func() error { return command(line) })
}

// command runs a short command; a word has no blanks.
func command(line string) error {
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// The network of a trial: a bridge, to which machines are tied by cables of their own.
const (
	bridge     = "bridge"
	hubAddress = "10.213.79.1"
)

// machine makes a place with a cable to the bridge. Its end of the cable is eth0, the other one
// has its name.
func machine(name string, number int) (*place, error) {
	p, err := newPlace(fmt.Sprintf("10.213.79.%d", number+1), true)
	if err != nil {
		return nil, err
	}
	for _, line := range []string{
		"ip link add " + name + " type veth peer name eth0 netns " + strconv.Itoa(p.tid),
		"ip link set " + name + " master " + bridge,
		"ip link set " + name + " up",
	} {
		err = errors.Join(err, command(line))
	}
	for _, line := range []string{"ip address add " + p.address + "/24 dev eth0",
		"ip link set eth0 up", "ip link set lo up"} {
		err = errors.Join(err, p.command(line))
	}
	if err != nil {
		p.close()
	}
	return p, err
}

// hub makes this process's namespace, a new one, the one with the bridge.
func hub() (err error) {
	for _, line := range []string{"ip link set lo up", "ip link add " + bridge + " type bridge",
		"ip address add " + hubAddress + "/24 dev " + bridge, "ip link set " + bridge + " up"} {
		err = errors.Join(err, command(line))
	}
	return err
}

// apart is set in the process that Apart starts.
const apart = "DROVER_TRIAL_APART"

// ErrNotHere says that this machine cannot make what a trial needs.
var ErrNotHere = errors.New("not possible here")

// Apart runs this program once more with the same arguments in a network namespace of its own,
// where a trial may take any address and break any link. again is false in that process, which
// goes on; otherwise code is its exit code.
func Apart() (again bool, code int, err error) {
	if os.Getenv(apart) != "" {
		return false, 0, nil
	}
	if os.Geteuid() != 0 {
		return false, 0, fmt.Errorf("%w: network namespaces need root", ErrNotHere)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return false, 0, fmt.Errorf("%w: network namespaces need the command ip (iproute2)", ErrNotHere)
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), apart+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET,
		Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = c.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return true, max(exit.ExitCode(), 1), nil
	}
	if errors.Is(err, syscall.EPERM) {
		err = fmt.Errorf("%w: network namespaces are not permitted: %w", ErrNotHere, err)
	}
	return true, 0, err
}

package etcdserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Grant lets one user, known by the common name of its certificate, use the keys under some
// prefixes. Write includes Read.
type Grant struct {
	User        string
	Read, Write []string
}

const (
	// root must exist where etcd asks who one is. Here it has no password, and no authority
	// of Drover signs a certificate with that name.
	root = "root"
	// accessTimeout bounds one try to set up access, accessTries how many there are: members
	// that start together do the same at the same time.
	accessTimeout = 30 * time.Second
	accessTries   = 5
)

// Restrict has the cluster that endpoint belongs to refuse what is not granted. The client
// is admin, the user in its certificate, who may do everything. It may be done again, and
// by several members at a time; grants of an earlier time that are not among these end.
func Restrict(ctx context.Context, endpoint string, client *tls.Config, admin string,
	grants []Grant) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: client,
		Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("etcd: restrict access: %w", err)
	}
	defer c.Close()
	for try := 1; ; try++ {
		if err = restrict(ctx, c, admin, grants); err == nil {
			return nil
		}
		if try == accessTries || ctx.Err() != nil {
			return fmt.Errorf("etcd: restrict access: %w", err)
		}
	}
}

func restrict(ctx context.Context, c *clientv3.Client, admin string, grants []Grant) error {
	ctx, cancel := context.WithTimeout(ctx, accessTimeout)
	defer cancel()
	for _, name := range []string{root, admin} {
		if err := addUser(ctx, c, name, root); err != nil {
			return err
		}
	}
	for _, g := range grants {
		if err := grant(ctx, c, g); err != nil {
			return fmt.Errorf("user %s: %w", g.User, err)
		}
	}
	status, err := c.AuthStatus(ctx)
	if err == nil && !status.Enabled {
		_, err = c.AuthEnable(ctx)
	}
	return err
}

// addUser makes a user that has no password and one role, which is made, too.
func addUser(ctx context.Context, c *clientv3.Client, user, role string) error {
	_, err := c.RoleAdd(ctx, role)
	if err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return err
	}
	_, err = c.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true})
	if err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
		return err
	}
	_, err = c.UserGrantRole(ctx, user, role)
	return err
}

// grant gives a user a role of its own name with exactly these permissions.
func grant(ctx context.Context, c *clientv3.Client, g Grant) error {
	if err := addUser(ctx, c, g.User, g.User); err != nil {
		return err
	}
	want := map[string]clientv3.PermissionType{}
	for _, prefix := range g.Read {
		want[prefix] = clientv3.PermissionType(authpb.READ)
	}
	for _, prefix := range g.Write {
		want[prefix] = clientv3.PermissionType(authpb.READWRITE)
	}
	present, err := c.RoleGet(ctx, g.User)
	if err != nil {
		return err
	}
	for _, p := range present.Perm {
		key := string(p.Key)
		kind, ok := want[key]
		if ok && string(p.RangeEnd) == clientv3.GetPrefixRangeEnd(key) &&
			authpb.Permission_Type(kind) == p.PermType {
			delete(want, key)
			continue
		}
		_, err := c.RoleRevokePermission(ctx, g.User, key, string(p.RangeEnd))
		if err != nil && !errors.Is(err, rpctypes.ErrPermissionNotGranted) {
			return err
		}
	}
	for prefix, kind := range want {
		if _, err := c.RoleGrantPermission(ctx, g.User, prefix,
			clientv3.GetPrefixRangeEnd(prefix), kind); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"flag"
	"log"
	"net/http"
	"os"
	"path/filepath"
)

const (
	claimsPath  = "/api/v1/persistentvolumeclaims"
	volumesPath = "/api/v1/persistentvolumes"
	// storageClass is served; madeBy marks what was made for it.
	storageClass = "standard"
	madeBy       = "lab-volumes"
)

type claim struct {
	Metadata metadata
	Spec     struct {
		AccessModes                  []string
		StorageClassName, VolumeName string
		Resources                    struct{ Requests map[string]string }
	}
	Status struct{ Phase string }
}

type volume struct {
	Metadata metadata
	Status   struct{ Phase string }
}

// volumes gives each claim on the storage class a folder that all nodes see and every user
// may write to, and removes it when the claim is gone.
func volumes(fs *flag.FlagSet, args []string) error {
	root := fs.String("root", "", "folder to make volumes in")
	open := apiFlags(fs)
	_ = fs.Parse(args) // it exits on an error
	a, err := open("volumes")
	if err != nil {
		return err
	}
	a.onChange(func() error { return a.supply(*root) }, claimsPath, volumesPath)
	return nil
}

// supply makes what is missing and removes what nobody claims any more.
func (a *api) supply(root string) error {
	var have struct{ Items []volume }
	if err := a.call(http.MethodGet, volumesPath, nil, &have); err != nil {
		return err
	}
	made := map[string]bool{}
	for _, v := range have.Items {
		name := v.Metadata.Name
		made[name] = true
		if v.Metadata.Labels["app"] != madeBy || v.Status.Phase != "Released" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			return err
		}
		if err := a.call(http.MethodDelete, volumesPath+"/"+name, nil, nil); err != nil {
			return err
		}
		log.Print("removed ", name)
	}
	var want struct{ Items []claim }
	if err := a.call(http.MethodGet, claimsPath, nil, &want); err != nil {
		return err
	}
	for _, c := range want.Items {
		name := "claim-" + c.Metadata.UID
		if c.Spec.StorageClassName != storageClass || c.Spec.VolumeName != "" ||
			c.Status.Phase != "Pending" || made[name] {
			continue
		}
		if err := a.makeVolume(filepath.Join(root, name), name, c); err != nil {
			return err
		}
		log.Printf("made %s for %s/%s", name, c.Metadata.Namespace, c.Metadata.Name)
	}
	return nil
}

func (a *api) makeVolume(dir, name string, c claim) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // MkdirAll obeys the umask
		return err
	}
	return a.call(http.MethodPost, volumesPath, map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": map[string]any{"name": name, "labels": map[string]string{"app": madeBy}},
		"spec": map[string]any{
			"storageClassName":              storageClass,
			"capacity":                      c.Spec.Resources.Requests,
			"accessModes":                   c.Spec.AccessModes,
			"persistentVolumeReclaimPolicy": "Retain", // the folder is removed here
			"hostPath":                      map[string]string{"path": dir, "type": "Directory"},
			"claimRef": map[string]string{"kind": "PersistentVolumeClaim",
				"namespace": c.Metadata.Namespace, "name": c.Metadata.Name, "uid": c.Metadata.UID},
		},
	}, nil)
}

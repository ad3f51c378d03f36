package packed

import "golang.org/x/sys/unix"

// mapPopulate brings the pages in while mapping.
const mapPopulate = unix.MAP_POPULATE

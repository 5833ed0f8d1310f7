package imds

import (
	"encoding/json"
	"regexp"
)

// The answers about the instance itself, beside its interfaces: as much as cloud-init
// asks for to know that it is on EC2, and whose instance this is.
const (
	InstanceID = "i-0123456789abcdef0"
	Region     = "us-east-1"
	zone       = Region + "a"
	ownerID    = "123456789012"
	vpcID      = "vpc-0123456789abcdef0"
)

// PublicKey is the key that an administrator has chosen for logging in.
const PublicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g lab"

// version matches the first part of a path: the metadata of now, or as of a date, which
// cloud-init asks for. The service answers all dates alike.
var version = regexp.MustCompile(`^/(latest|20\d\d-\d\d-\d\d)/`)

// instance returns the files below meta-data/ that do not depend on the ENIs.
func instance() map[string]string {
	return map[string]string{
		"instance-id":                 InstanceID,
		"instance-type":               "t3.small",
		"placement/availability-zone": zone,
		"placement/region":            Region,
		// The listing has the key's name, its folder has not.
		"public-keys/":              "0=lab",
		"public-keys/0/openssh-key": PublicKey,
	}
}

// dynamic has the files below dynamic/.
var dynamic = map[string]string{"instance-identity/document": identity()}

// identity is the document by which programs know where they are.
func identity() string {
	text, _ := json.MarshalIndent(map[string]any{
		"accountId":        ownerID,
		"architecture":     "x86_64",
		"availabilityZone": zone,
		"instanceId":       InstanceID,
		"instanceType":     "t3.small",
		"region":           Region,
		"version":          "2017-09-30",
	}, "", "  ") // cannot fail
	return string(text)
}

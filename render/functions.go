package render

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

// emptySet returns a new set of templates. Two templates never share a set, so that
// neither sees the names that the other defines. The built-in templates call only
// text/template's own functions, and adding the two hundred others takes longer than
// rendering.
func emptySet(withFunctions bool) (*template.Template, error) {
	if !withFunctions {
		return template.New("").Option("missingkey=error"), nil
	}
	return functionSet().Clone()
}

// functions and functionSet are made once, on first use.
var (
	functions   = sync.OnceValue(functionMap)
	functionSet = sync.OnceValue(func() *template.Template {
		return template.New("").Option("missingkey=error").Funcs(functions())
	})
)

// notRepeatable are functions that sprig calls hermetic although they depend on the
// clock, the time zone or randomness.
var notRepeatable = []string{
	"ago", "toDate", "mustToDate", "must_date_modify", "mustDateModify", "durationRound",
	"shuffle", "randInt", "bcrypt", "htpasswd", "encryptAES",
	"genPrivateKey", "genCA", "genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey",
	"genSignedCert", "genSignedCertWithKey",
}

// functionMap returns the functions that a template can call: sprig's, without those whose
// result differs from run to run, and the network helpers below.
func functionMap() template.FuncMap {
	m := sprig.HermeticTxtFuncMap()
	for _, name := range notRepeatable {
		delete(m, name)
	}
	// sprig's own use the random order of a map's keys.
	m["keys"] = keys
	m["values"] = values
	for _, name := range []string{"set", "merge", "mustMerge", "mergeOverwrite", "mustMergeOverwrite"} {
		m[name] = withoutCycles(m[name])
	}
	m["repeat"] = repeat
	m["until"] = until(m["until"].(func(int) []int))
	m["untilStep"] = untilStep(m["untilStep"].(func(int, int, int) []int))
	m["seq"] = seq(m["seq"].(func(...int) string))
	m["printf"] = printf
	// text/template's own functions have to be bounded like the others.
	m["print"], m["println"] = fmt.Sprint, fmt.Sprintln
	m["html"], m["js"], m["urlquery"] = template.HTMLEscaper, template.JSEscaper, template.URLQueryEscaper

	m["hex"] = hex
	m["netmask"] = netmask
	m["nthAddr"] = nthAddr
	m["prefixHas"] = prefixHas
	return m
}

// mentioned returns the functions whose names appear anywhere in the texts, which
// include all that the texts call.
func mentioned(texts ...string) template.FuncMap {
	found := make(template.FuncMap)
	for name, f := range functions() {
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, name) }) {
			found[name] = f
		}
	}
	return found
}

// hex spells a number as ip rule and iptables do: hex 1001 is 0x3e9.
func hex(n int) string { return fmt.Sprintf("%#x", n) }

// netmask spells the prefix length of an IPv4 block as a mask: 255.255.255.0.
func netmask(p netip.Prefix) (string, error) {
	if !p.IsValid() || !p.Addr().Is4() {
		return "", fmt.Errorf("%s is not an IPv4 block", p)
	}
	bits := ^uint32(0) << (32 - p.Bits())
	return fmt.Sprintf("%d.%d.%d.%d", bits>>24, bits>>16&0xff, bits>>8&0xff, bits&0xff), nil
}

// nthAddr returns the nth address of a block: 0 is the network's, -1 the last. nthAddr
// .Subnet 2 is the VPC's DNS server for a subnet.
func nthAddr(p netip.Prefix, n int) (netip.Addr, error) {
	if !p.IsValid() {
		return netip.Addr{}, fmt.Errorf("%s is not a block", p)
	}
	first := new(big.Int).SetBytes(p.Masked().Addr().AsSlice())
	size := new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
	at := big.NewInt(int64(n))
	if n < 0 {
		at.Add(at, size)
	}
	if at.Sign() < 0 || at.Cmp(size) >= 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address %d", p, n)
	}
	addr, _ := netip.AddrFromSlice(first.Add(first, at).FillBytes(make([]byte, p.Addr().BitLen()/8)))
	return addr, nil
}

// prefixHas reports whether an address is in a block.
func prefixHas(p netip.Prefix, a netip.Addr) bool { return p.Contains(a) }

package render

import (
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/sprig/v3"
)

func execute1(t *testing.T, text string) string {
	t.Helper()
	set, err := emptySet(true)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := set.New("t").Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := tmpl.Execute(&out, View{ENI: eth1(t)}); err != nil {
		return "error: " + err.Error()
	}
	return out.String()
}

func TestFunctions(t *testing.T) {
	for text, want := range map[string]string{
		`{{hex 1001}}`:                                                   "0x3e9",
		`{{netmask .Subnet}}`:                                            "255.255.255.0",
		`{{nthAddr .Subnet 2}}`:                                          "10.0.1.2",
		`{{nthAddr .Subnet -1}}`:                                         "10.0.1.255",
		`{{nthAddr .Subnet 0}}`:                                          "10.0.1.0",
		`{{nthAddr .Subnet 256}}`:                                        "error: ",
		`{{nthAddr .Subnet -257}}`:                                       "error: ",
		`{{index .IPv4 0 | prefixHas .Subnet}}`:                          "true",
		`{{keys (dict "b" 1 "a" 2 "c" 3)}}`:                              "[a b c]",
		`{{values (dict "b" 1 "a" 2 "c" 3)}}`:                            "[2 1 3]",
		`{{$d := dict "a" 1}}{{set $d "b" $d}}`:                          "error: ",
		`{{$d := dict "a" 1}}{{set $d "b" (list 1 (dict "c" $d))}}`:      "error: ",
		`{{$d := dict "a" 1}}{{merge $d (dict "b" $d)}}`:                 "error: ",
		`{{$d := dict "a" 1}}{{set $d "b" 2}} {{merge $d (dict "c" 3)}}`: "map[a:1 b:2] map[a:1 b:2 c:3]",
		`{{repeat 3 "ab"}}`:                                              "ababab",
		`{{repeat 3000000000 "a"}}`:                                      "error: ",
		`{{until 3}} {{untilStep 0 6 2}}`:                                "[0 1 2] [0 2 4]",
		`{{until 1000000000}}`:                                           "error: ",
		`{{untilStep 0 1000000000 2}}`:                                   "error: ",
		`{{printf "%d %v %s %d" .Table .Gateway .Subnet .Mark}}`:         "1001 10.0.1.1 10.0.1.0/24 1001",
		`{{printf "%v %5.1f%%" .IPv4 1.5}}`:                              "[10.0.1.20 10.0.1.21]   1.5%",
		`{{printf "%p" .IPv4}}`:                                          "error: ",
		`{{printf "%#v" .Gateway}}`:                                      "error: ",
		`{{printf "%d" .Gateway}}`:                                       "%!d(string=10.0.1.1)",
		`{{print .Gateway .MAC}}`:                                        "10.0.1.1 02:00:00:00:01:20",
		`{{join "," .IPv4}}`:                                             "10.0.1.20,10.0.1.21",
		`{{first .IPv4}}`:                                                "10.0.1.20",
		`{{.Path "cfg"}}`:                                                "/etc/network/interfaces.d/eth1.cfg",
		`{{.Path "cgf"}}`:                                                "error: ",
	} {
		for range 10 {
			if got := execute1(t, text); got != want && (want != "error: " || !strings.HasPrefix(got, want)) {
				t.Errorf("%s gives %q, want %q", text, got, want)
				break
			}
		}
	}
}

// A person has to review each new function of sprig: does it return the same for the same
// arguments? This list has the reviewed functions.
func TestEverySprigFunctionIsKnown(t *testing.T) {
	looked := strings.Fields(`
		abbrev abbrevboth add add1 add1f addf adler32sum all any append atoi b32dec b32enc b64dec b64enc base
		biggest buildCustomCert camelcase cat ceil chunk clean coalesce compact concat contains decryptAES deepCopy
		deepEqual default derivePassword dict dig dir div divf duration empty ext fail first float64 floor
		fromJson get has hasKey hasPrefix hasSuffix hello indent initial initials int int64 isAbs join kebabcase
		keys kindIs kindOf last list lower max maxf merge mergeOverwrite min minf mod mul mulf mustAppend
		mustChunk mustCompact mustDeepCopy mustFirst mustFromJson mustHas mustInitial mustLast mustMerge
		mustMergeOverwrite mustPrepend mustPush mustRegexFind mustRegexFindAll mustRegexMatch
		mustRegexReplaceAll mustRegexReplaceAllLiteral mustRegexSplit mustRest mustReverse mustSlice
		mustToJson mustToPrettyJson mustToRawJson mustUniq mustWithout nindent nospace omit osBase osClean
		osDir osExt osIsAbs pick pluck plural prepend push quote regexFind regexFindAll regexMatch
		regexQuoteMeta regexReplaceAll regexReplaceAllLiteral regexSplit repeat replace rest reverse round
		semver semverCompare seq set sha1sum sha256sum sha512sum slice snakecase sortAlpha split splitList
		splitn squote sub subf substr swapcase ternary title toDecimal toJson toPrettyJson toRawJson
		toString toStrings trim trimAll trimPrefix trimSuffix trimall trunc tuple typeIs typeIsLike typeOf
		uniq unixEpoch unset until untilStep untitle upper urlJoin urlParse values without wrap wrapWith`)
	m := sprig.HermeticTxtFuncMap()
	for name := range m {
		if !slices.Contains(looked, name) && !slices.Contains(notRepeatable, name) {
			t.Errorf("sprig has %q, which nobody has reviewed", name)
		}
	}
	for _, name := range append(looked, notRepeatable...) {
		if _, ok := m[name]; !ok {
			t.Errorf("sprig has no %q", name)
		}
	}
}

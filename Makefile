# The targets that people use have a comment of two hashes; "make help" prints them.

GO ?= go
# The race detector needs a C compiler, which nothing else needs.
RACE := $(if $(shell command -v gcc 2>/dev/null),-race)
# From CHANGELOG.md.
VERSION = $(or $(shell hooks/deb/version),$(error there is no version))
TOOL := $(GO) tool -modfile=lab/tools/go.mod
BINARY ?= ec2net
UPSTART ?= /etc/init
CLOUD = /etc/cloud/cloud.cfg.d/95-ec2net.cfg

.PHONY: help build run demo check cover test lint vulncheck newest install deb release bench fuzz soak hour update debian

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

build: ## build ./ec2net
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o $(BINARY) ./cmd/ec2net

run: build ## render the example ENI to stdout: no root, no EC2
	@./ec2net render eth1 --stack networkd --facts facts/examples/eth1.json --settings= --templates=

demo: ## see what ec2net does, in a VPC of network namespaces; needs root
	@test "$$(id -u)" = 0 || { echo "make demo: not root: it makes network namespaces, mounts and device nodes" >&2; exit 1; }
	@$(MAKE) --no-print-directory debian >/dev/null
	@$(GO) run ./lab/cmd/demo

# -count=1: go test does not notice changes of the tool that the scripts run.
test: debian lint ## lint and every test: run it before a merge
	$(GO) test $(RACE) -count=1 -timeout 40m -parallel 6 ./...
	$(if $(RACE),$(GO) test -count=1 -parallel 6 ./hooks -run '^TestSequencesInMemory$$') # a thousand, which the race detector makes too slow

# What needs no Debian tree, and what of it is installed.
CHECKED = $$($(GO) list ./... | grep -v '^ec2net/lab')
PRODUCT = $$($(GO) list ./... | grep -v '^ec2net/\(lab\|kernel/memory\|hooks/deb\)' | paste -sd ,)

check: lint ## lint, and every test that needs no Debian tree: under a minute
	$(GO) test -count=1 -short $(CHECKED)

# The scripts of cmd/ec2net run the tool, whose statements count too.
cover: ## which statements of the product "make check" runs, in cover.out
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir" "$$dir.log"' EXIT && chmod 777 "$$dir" && \
	    $(GO) test -count=1 -short -cover -coverpkg=$(PRODUCT) $(CHECKED) -args -test.gocoverdir="$$dir" >"$$dir.log" || { cat "$$dir.log"; exit 1; } && \
	    $(GO) tool covdata textfmt -i="$$dir" -pkg=$(PRODUCT) -o=cover.out && $(GO) tool covdata percent -i="$$dir" -pkg=$(PRODUCT) && \
	    $(GO) tool cover -func=cover.out | tail -n 1

# err and ok may shadow another err or ok, as in "if err := ..."; no other name may.
lint: ## gofmt, go vet, all of staticcheck, no name that shadows another
	@test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) predeclared ./...
	@! $(TOOL) shadow ./... 2>&1 | grep -v '"err" shadows\|"ok" shadows'

vulncheck: ## known vulnerabilities of the modules, from a database on the network
	@$(TOOL) govulncheck $(if $(VULNDB),-db $(VULNDB)) ./... || { test $$? = 3 || \
	    echo "make vulncheck: nothing was checked. It needs the network, or VULNDB=URL with a copy of the database" >&2; exit 1; }

newest: ## take the newest modules into go.mod and lab/tools/go.mod
	$(GO) get -u -t ./... && $(GO) mod tidy
	$(GO) -C lab/tools get -u tool && $(GO) -C lab/tools mod tidy

# Makes the Debian trees in which Debian's own tools check the rendered files, once, in
# the user's cache folder.
debian:
	@if [ "$$(id -u)" != 0 ]; then \
	    echo "make test: not root: this leaves out tests with Debian's own tools, and tests in the lab"; \
	else \
	    command -v debootstrap >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap; } && \
	    $(GO) run ./lab/cmd/tree bookworm trixie bookworm-docker bookworm-shells bookworm-packaging bookworm-resolvconf trixie-openresolv bookworm-ec2 trixie-ec2 bookworm-docker-ec2; \
	fi

install: build ## install below DESTDIR, under the documented names
	install -d $(addprefix $(DESTDIR),/etc/network /etc/default /etc/ec2net/templates /var/lib/ec2net)
	install -D -m 755 $(BINARY) $(DESTDIR)/usr/sbin/ec2net
	ln -sf /usr/sbin/ec2net $(DESTDIR)/etc/network/ec2net.hotplug
	for name in ec2ifup ec2ifdown ec2ifscan ec2ifupscan; do ln -sf ec2net $(DESTDIR)/usr/sbin/$$name; done
	install -D -m 644 hooks/dhcp-enter-hook $(DESTDIR)/etc/dhcp/dhclient-enter-hooks.d/ec2net
	install -D -m 644 hooks/dhcp-enter-hook $(DESTDIR)/usr/lib/dhcpcd/dhcpcd-hooks/00-ec2net-dns
	install -D -m 644 hooks/dhcp-hook $(DESTDIR)/etc/dhcp/dhclient-exit-hooks.d/ec2net
	install -D -m 644 hooks/dhcp-hook $(DESTDIR)/usr/lib/dhcpcd/dhcpcd-hooks/90-ec2net
	install -D -m 644 -t $(DESTDIR)/usr/lib/udev/rules.d udev/53-ec2-network-interfaces.rules
	install -D -m 644 -t $(DESTDIR)/usr/lib/systemd/system systemd/*.service
	install -D -m 644 systemd/networkd.conf $(DESTDIR)/usr/lib/systemd/networkd.conf.d/50-ec2net.conf
	install -D -m 644 -t $(DESTDIR)$(UPSTART) upstart/*.conf
	for page in ec2net.8 ec2net-templates.5; do \
	    install -D -m 644 man/$$page $(DESTDIR)/usr/share/man/man$${page#*.}/$$page && \
	    sed -i '1{s/@VERSION@/$(VERSION)/;s/~/\\(ti/g}' $(DESTDIR)/usr/share/man/man$${page#*.}/$$page || exit 1; \
	done
	for name in ec2ifup ec2ifdown ec2ifscan ec2ifupscan; do ln -sf ec2net.8 $(DESTDIR)/usr/share/man/man8/$$name.8; done
	install -D -m 644 completion/ec2net.bash $(DESTDIR)/usr/share/bash-completion/completions/ec2net
	install -D -m 644 -t $(DESTDIR)/usr/share/zsh/vendor-completions completion/_ec2net
	install -D -m 644 -t $(DESTDIR)/usr/share/fish/vendor_completions.d completion/ec2net.fish
	for name in ec2ifup ec2ifdown; do \
	    ln -sf ec2net $(DESTDIR)/usr/share/bash-completion/completions/$$name; \
	    ln -sf ec2net.fish $(DESTDIR)/usr/share/fish/vendor_completions.d/$$name.fish; \
	done
	test -e $(DESTDIR)/etc/default/ec2net || install -m 644 hooks/default $(DESTDIR)/etc/default/ec2net
	test -e $(DESTDIR)$(CLOUD) || install -D -m 644 hooks/cloud.cfg $(DESTDIR)$(CLOUD)
	@test -n "$(DESTDIR)" || ! command -v ifup >/dev/null || /usr/sbin/ec2net reads || :

DEB_ARCHS ?= amd64 arm64
DIST ?= dist

deb: export MAINTAINER ?= $(shell git log -1 --format='%an <%ae>')
deb: export DIST := $(DIST)
deb: export GO := $(GO)
deb: export TOOL := $(TOOL)
deb: ## build the Debian packages, and an SBOM beside each, in dist
	@command -v dpkg-deb >/dev/null || { echo "make deb: there is no dpkg-deb" >&2; exit 1; }
	@for arch in $(DEB_ARCHS); do MAKE='$(MAKE)' VERSION='$(VERSION)' hooks/deb/build $$arch || exit 1; done

release: ## the same for a version with a date in CHANGELOG.md, with notes and checksums
	@MAKE='$(MAKE)' DIST='$(DIST)' DEB_ARCHS='$(DEB_ARCHS)' hooks/deb/release

bench: ## time and allocations of rendering; as root, what ec2net costs in the lab
	$(GO) test -run '^$$' -bench . -benchmem ./...
	@if [ "$$(id -u)" != 0 ]; then \
	    echo "make bench: not root: this leaves out measurements in the lab"; \
	else \
	    $(MAKE) --no-print-directory debian >/dev/null && $(GO) run ./lab/cmd/bench; \
	fi

FUZZTIME ?= 30s
fuzz: ## fuzz every parser, FUZZTIME each
	$(GO) run ./lab/cmd/fuzz -time $(FUZZTIME) $(if $(UPDATE),-update)

soak: ## run a thousand random sequences of events; needs root
	$(GO) test ./hooks -run '^TestSequences$$' -sequences 1000 -timeout 60m $(if $(UPDATE),-update)

HOUR ?= 1h
SEED ?= 1
hour: ## disturb whole machines at random for HOUR, from SEED on; needs root
	$(GO) test ./lab/endtoend -run '^TestHour$$' -v -hour $(HOUR) -seed $(SEED) -timeout 0 $(if $(UPDATE),-update)

update: ## write the golden files and the tables of ec2net(8), hooks/default and docs anew
	$(GO) test ./cmd/ec2net -run '^TestTables$$' -update
	$(GO) test ./render -update
	$(GO) test ./hooks -run '^TestNetlinkFails$$' -update
	$(GO) test ./lab/endtoend -run '^Test(Faults|Killed|Attackers|Image)$$' -update

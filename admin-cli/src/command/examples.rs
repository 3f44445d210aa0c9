//! Examples on the help pages of small commands. Larger commands have theirs beside their flags. A test runs all of them.

/// The examples of a command, such as `topic create`, or none.
pub fn of(command: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(known, _)| *known == command).map(|(_, text)| *text)
}

const EXAMPLES: &[(&str, &str)] = &[
    (
        "topic create",
        "\
Examples:
  nsq topic create orders                              # at the nsqlookupds, or without them at all nsqds
  nsq topic create orders --on all                     # also at every nsqd
  nsq topic create orders --channel billing --channel archive --on all",
    ),
    (
        "topic delete",
        "\
Examples:
  nsq topic delete orders --dry-run                    # the nodes, messages and consumers that would go
  nsq topic delete orders                              # asks first
  nsq topic delete orders --yes                        # for scripts",
    ),
    (
        "topic unpause",
        "\
Examples:
  nsq topic unpause orders
  nsq topic unpause orders --dry-run
  nsq topic unpause orders --json",
    ),
    (
        "topic empty",
        "\
Examples:
  nsq topic empty orders --dry-run                     # how many messages would go
  nsq topic empty orders --yes                         # only messages that no channel has yet
  nsq topic empty orders --channels --yes              # also those of all its channels",
    ),
    (
        "topic retain",
        "\
Examples:
  nsq topic retain orders --for 24h                    # finished messages stay for a day
  nsq topic retain orders --for 24h --bytes 1000000000
  nsq topic retain orders --default                    # what nsqd's flags say",
    ),
    (
        "topic set",
        "\
Examples:
  nsq topic set orders owner=shop retain_for=24h
  nsq topic set orders ttl=1h
  nsq topic set orders ttl=default                     # removes the setting",
    ),
    (
        "channel list",
        "\
Examples:
  nsq channel ls                                       # of all topics
  nsq channel ls orders
  nsq channel ls orders -o name",
    ),
    (
        "channel clients",
        "\
Examples:
  nsq channel clients orders billing
  nsq channel clients orders/billing --group host      # one row per host
  nsq channel clients orders/billing --json",
    ),
    (
        "channel create",
        "\
Examples:
  nsq channel create orders billing
  nsq channel create orders/archive
  nsq channel create orders/preview#ephemeral          # goes with its last consumer",
    ),
    (
        "channel delete",
        "\
Examples:
  nsq channel delete orders billing --dry-run          # the messages and consumers that would go
  nsq channel delete orders/billing                    # asks first
  nsq channel delete orders/billing --yes              # for scripts",
    ),
    (
        "channel unpause",
        "\
Examples:
  nsq channel unpause orders billing
  nsq channel unpause orders/billing --dry-run
  nsq channel unpause orders/billing --json",
    ),
    (
        "channel empty",
        "\
Examples:
  nsq channel empty orders billing --dry-run           # how many messages would go
  nsq channel empty orders/billing                     # asks first
  nsq channel empty orders/billing --yes               # `nsq undo orders/billing` brings them back",
    ),
    (
        "channel seek",
        "\
Examples:
  nsq channel seek orders billing --to 15m --dry-run   # how many messages would come again
  nsq channel seek orders/billing --to earliest        # all that the topic retains
  nsq channel seek orders/billing --to latest          # finishes everything that waits",
    ),
    (
        "channel set",
        "\
Examples:
  nsq channel set orders billing 'retry=exponential 1s..15m'
  nsq channel set orders/billing max_attempts=5 dead_letter=orders.failed
  nsq channel set orders/billing retry=default         # removes the setting",
    ),
    (
        "policy explain",
        "\
Examples:
  nsq policy explain orders
  nsq policy explain orders/billing
  nsq policy explain orders --json",
    ),
    (
        "policy settings",
        "\
Examples:
  nsq policy settings
  nsq policy settings --json
  nsq policy settings | grep attempts",
    ),
    (
        "policy check",
        "\
Examples:
  nsq policy check policies.toml
  nsq policy check policies.toml --json
  nsq policy check policies.toml && nsq policy apply policies.toml --diff",
    ),
    (
        "policy apply",
        "\
Examples:
  nsq policy apply policies.toml --diff                # what would change
  nsq policy apply policies.toml
  nsq policy apply policies.toml --prune --diff        # also settings that the file does not have",
    ),
    (
        "undo",
        "\
Examples:
  nsq undo orders/billing --dry-run                    # how many messages would come back
  nsq undo orders/billing
  nsq undo orders --dry-run                            # all channels that have something to undo",
    ),
    (
        "dead stop",
        "\
Examples:
  nsq dead stop orders.dead
  nsq dead stop orders.dead --json
  nsq dead stop orders.dead && nsq dead ls orders.dead",
    ),
    (
        "node list",
        "\
Examples:
  nsq node ls
  nsq node ls -o name                                  # only the addresses
  nsq node ls --json",
    ),
    (
        "node show",
        "\
Examples:
  nsq node show 127.0.0.1:4151
  nsq node show 127.0.0.1:4151 --json
  nsq node show 127.0.0.1:4151 --jq .version",
    ),
    (
        "node config get",
        "\
Examples:
  nsq node config get log_level                        # of all nodes
  nsq node config get max_msg_size --node 127.0.0.1:4151
  nsq node config get nsqlookupd_tcp_addresses --json",
    ),
    (
        "node config set",
        "\
Examples:
  nsq node config set log_level debug --dry-run
  nsq node config set log_level debug
  nsq node config set log_level info --node 127.0.0.1:4151",
    ),
    (
        "node tombstone",
        "\
Examples:
  nsq node tombstone 127.0.0.1:4151 orders --dry-run
  nsq node tombstone 127.0.0.1:4151 orders --yes       # consumers look elsewhere for a while
  nsq node tombstone 127.0.0.1:4151 orders --delete --yes   # also deletes the topic there",
    ),
    (
        "node drain",
        "\
Examples:
  nsq node drain 127.0.0.1:4151                        # it refuses publishes from now on
  nsq node drain 127.0.0.1:4151 --wait --wait-timeout 1m
  nsq node drain 127.0.0.1:4151 --stop-draining",
    ),
    (
        "ping",
        "\
Examples:
  nsq ping                                             # all daemons; exit code 3 if some fail
  nsq ping --nsqd 127.0.0.1:4151
  nsq ping --json",
    ),
    (
        "lookup list",
        "\
Examples:
  nsq lookup ls
  nsq lookup ls --lookupd 127.0.0.1:4161
  nsq lookup ls --json",
    ),
    (
        "lookup diff",
        "\
Examples:
  nsq lookup diff                                      # exit code 3 if the nsqlookupds differ
  nsq lookup diff --lookupd 127.0.0.1:4161
  nsq lookup diff --json",
    ),
    (
        "lookup prune",
        "\
Examples:
  nsq lookup prune --dry-run                           # names that no node has
  nsq lookup prune                                     # asks first
  nsq lookup prune --yes                               # for scripts",
    ),
    (
        "cluster export",
        "\
Examples:
  nsq cluster export > cluster.toml
  nsq cluster export --json
  nsq cluster export -o yaml > cluster.yaml",
    ),
    (
        "cluster apply",
        "\
Examples:
  nsq cluster apply cluster.toml --diff                # what would change; exit code 3 if anything would
  nsq cluster apply cluster.toml --yes
  nsq cluster export | nsq cluster apply - --diff",
    ),
    (
        "bench pub",
        "\
Examples:
  nsq bench pub --nsqd-tcp 127.0.0.1:4150 --messages 10000
  nsq bench pub --nsqd-tcp 127.0.0.1:4150 --messages 10000 --batch 100 --connections 2
  nsq bench pub --nsqd-tcp 127.0.0.1:4150 --duration 1s --json",
    ),
    (
        "bench sub",
        "\
Examples:
  nsq bench sub --nsqd-tcp 127.0.0.1:4150 --messages 10000
  nsq bench sub --nsqd-tcp 127.0.0.1:4150 --messages 10000 --size 1000
  nsq bench sub --nsqd-tcp 127.0.0.1:4150 --messages 10000 --json",
    ),
    (
        "bench pubsub",
        "\
Examples:
  nsq bench pubsub --nsqd-tcp 127.0.0.1:4150 --messages 10000
  nsq bench pubsub --nsqd-tcp 127.0.0.1:4150 --messages 10000 --consumers 2
  nsq bench pubsub --nsqd-tcp 127.0.0.1:4150 --messages 10000 --json",
    ),
    (
        "bench fanout",
        "\
Examples:
  nsq bench fanout --nsqd-tcp 127.0.0.1:4150 --messages 10000
  nsq bench fanout --nsqd-tcp 127.0.0.1:4150 --messages 10000 --channels 4
  nsq bench fanout --nsqd-tcp 127.0.0.1:4150 --messages 10000 --json",
    ),
    (
        "bench latency",
        "\
Examples:
  nsq bench latency --nsqd-tcp 127.0.0.1:4150 --duration 1s
  nsq bench latency --nsqd-tcp 127.0.0.1:4150 --rate 1000 --duration 1s
  nsq bench latency --nsqd-tcp 127.0.0.1:4150 --duration 1s --json",
    ),
    (
        "data inspect",
        "\
Examples:
  nsq data inspect /var/lib/nsqd
  nsq data inspect /var/lib/nsqd --json
  nsq data inspect /var/lib/nsqd --jq .path",
    ),
    (
        "data verify",
        "\
Examples:
  nsq data verify /var/lib/nsqd
  nsq data verify /var/lib/nsqd --json
  nsq data verify /var/lib/nsqd && echo undamaged",
    ),
    (
        "data export",
        "\
Examples:
  nsq data export /var/lib/nsqd exported               # one file of JSON lines per topic
  nsq data export /var/lib/nsqd - --topic orders | head
  nsq data export --format nsq /var/lib/nsqd for-nsq   # a data directory for NSQ's nsqd",
    ),
    (
        "archive list",
        "\
Examples:
  nsq archive ls file:///srv/nsq-archive
  nsq archive ls file:///srv/nsq-archive --json
  nsq archive ls file:///srv/nsq-archive --jq '.[].log'",
    ),
    (
        "archive show",
        "\
Examples:
  nsq archive show file:///srv/nsq-archive
  nsq archive show file:///srv/nsq-archive --json
  nsq archive show file:///srv/nsq-archive --jq .snapshot_count",
    ),
    (
        "archive verify",
        "\
Examples:
  nsq archive verify file:///srv/nsq-archive
  nsq archive verify file:///srv/nsq-archive --until 2027-01-01T00:00:00Z
  nsq archive verify file:///srv/nsq-archive && echo whole",
    ),
    (
        "archive restore",
        "\
Examples:
  nsq archive restore file:///srv/nsq-archive restored
  nsq archive restore file:///srv/nsq-archive restored-whole --until 2027-01-01T00:00:00Z
  nsq archive restore file:///srv/nsq-archive restored-too && nsq data verify restored-too",
    ),
    (
        "auth token",
        "\
Examples:
  nsq auth token --identity billing --topic '^orders$' --channel '^billing$'
  nsq auth token --identity backup --permission read --expires 2030-01-01T00:00:00Z
  nsq auth token --identity operator --permission admin --json",
    ),
    (
        "auth password",
        "\
Examples:
  echo 'correct horse battery' | nsq auth password
  nsq auth password < password.txt
  nsq auth password < password.txt > password.hash",
    ),
    (
        "profile list",
        "\
Examples:
  nsq profile ls
  nsq profile ls -o name
  nsq profile ls --json",
    ),
    (
        "profile show",
        "\
Examples:
  nsq profile show local
  nsq profile show local --json
  nsq profile show local -o yaml",
    ),
    (
        "profile use",
        "\
Examples:
  nsq profile use local
  nsq profile use stage && nsq stat --no-rates
  nsq profile use local && nsq profile ls",
    ),
    (
        "profile add",
        "\
Examples:
  nsq profile add here --nsqd 127.0.0.1:4151
  nsq profile add prod --lookupd lookup1:4161,lookup2:4161 --protected --prompt-color red
  nsq profile add prod --lookupd lookup3:4161 --replace",
    ),
    (
        "profile remove",
        "\
Examples:
  nsq profile rm stage
  nsq profile add old --nsqd 127.0.0.1:4151 && nsq profile rm old
  nsq profile add old --nsqd 127.0.0.1:4151 && nsq profile rm old --json",
    ),
    (
        "profile edit",
        "\
Examples:
  nsq profile edit
  EDITOR=nano nsq profile edit
  VISUAL='code --wait' nsq profile edit",
    ),
    (
        "completion",
        "\
Examples:
  source <(nsq completion bash)                        # in this shell
  nsq completion zsh > _nsq
  nsq completion fish > nsq.fish",
    ),
    (
        "manual",
        "\
Examples:
  nsq manual man1
  nsq manual man1 && ls man1
  nsq manual man1 --json",
    ),
    (
        "version",
        "\
Examples:
  nsq version
  nsq version --server                                 # also those of the daemons
  nsq version --server --json",
    ),
];

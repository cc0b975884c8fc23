#!/bin/bash
# rabbitmq-c, the C client, through the command line tools built on it.
#
# needs:    amqp-publish amqp-consume amqp-get amqp-declare-queue amqp-delete-queue
# apt:      amqp-tools
# run:      bash "$FILE"

set -u

# The tools have no way to say these.
without() {
  cat <<LIST
without queue.rules/* amqp-tools cannot give a queue arguments
without tx/* amqp-tools have no transactions
without confirm/* amqp-tools publish without confirms
without basic.return/* amqp-publish cannot ask for mandatory
without heartbeat/negotiated amqp-tools do not tell what was negotiated
without exchange.* amqp-tools cannot declare exchanges
without basic.nack/* amqp-consume acks or, when its command fails, leaves
without basic.reject/* amqp-consume acks or, when its command fails, leaves
without basic.recover/* amqp-tools have no recover
without basic.cancel/* amqp-consume never cancels
without channel.* amqp-tools open one channel
without queue.unbind/* amqp-tools cannot unbind
without queue.purge/* amqp-tools cannot purge
without connection.blocked/low-memory amqp-publish leaves before it could be told
LIST
}

fail() {
  printf '%s\n' "$*" | tr '\n' ' ' >&2
  printf '\n' >&2
  exit 1
}

# equal WHAT ACTUAL EXPECTED
equal() {
  [ "$2" = "$3" ] || fail "$1: expected '$3', got '$2'"
}

# refused TEXT COMMAND...: the command must fail and name this cause.
refused() {
  local text=$1 said
  shift
  said=$("$@" 2>&1) && fail "$1 succeeded, expected $text"
  case $said in
    *"$text"*) ;;
    *) fail "expected $text, got $said" ;;
  esac
}

# A queue of our own, deleted at the end.
declare_queue() {
  queue=conformance-$$-$RANDOM$RANDOM
  queues="$queues $queue"
  equal "declare" "$(amqp-declare-queue -u "$url" -q "$queue" "$@")" "$queue"
}

put() {
  amqp-publish -u "$url" -r "$queue" "$@" || fail "amqp-publish $* failed"
}

take() {
  amqp-get -u "$url" -q "$queue"
}

# until WHAT COMMAND...: ask until the command succeeds, for at most 20 seconds.
until_true() {
  local what=$1 deadline=$((SECONDS + 20))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within 20 s"
    read -r -t 0.1 <> <(:) || true
  done
}

has_lines() {
  [ "$(wc -l < "$1")" -eq "$2" ]
}

case_connection.open/vhost-not-found() {
  refused "vhost nowhere not found" amqp-get -u "$url/nowhere" -q any
}

case_connection.open/bad-password() {
  refused "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile." \
    amqp-get --server "$host" --port "$port" --username guest --password wrong -q any
}

case_connection.close/unacked-to-others() {
  declare_queue
  put -b "first"
  put -b "second"
  # The command fails, so amqp-consume leaves without an ack.
  amqp-consume -u "$url" -q "$queue" -c 1 -p 1 false > "$scratch/lost" 2>&1
  equal "next consumer" "$(amqp-consume -u "$url" -q "$queue" -c 1 -p 1 cat)" "first"
  equal "what is left" "$(take)" "second"
}

case_queue.declare/server-named() {
  queue=$(amqp-declare-queue -u "$url" -q "")
  queues="$queues $queue"
  case $queue in
    amq.gen-*) ;;
    *) fail "expected amq.gen-..., got '$queue'" ;;
  esac
}

case_queue.declare/inequivalent() {
  declare_queue
  refused "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '$queue' in vhost '/': received 'true' but current is 'false'" \
    amqp-declare-queue -u "$url" -q "$queue" -d
}

case_queue.declare/reserved-name() {
  refused "ACCESS_REFUSED - queue name 'amq.conformance' contains reserved prefix 'amq.*'" \
    amqp-declare-queue -u "$url" -q amq.conformance
}

case_queue.delete/count() {
  declare_queue
  put -b "one"
  put -b "two"
  equal "delete" "$(amqp-delete-queue -u "$url" -q "$queue")" "2"
}

case_queue.delete/missing() {
  equal "delete" "$(amqp-delete-queue -u "$url" -q "missing-$$")" "0"
}

case_queue.delete/if-empty() {
  declare_queue
  put -b "something"
  refused "PRECONDITION_FAILED - queue '$queue' in vhost '/' not empty" amqp-delete-queue -u "$url" -q "$queue" -e
  take > "$scratch/taken"
  equal "delete" "$(amqp-delete-queue -u "$url" -q "$queue" -e)" "0"
}

case_queue.delete/if-unused() {
  declare_queue
  start_consumer -A -- sh -c "cat; echo"
  refused "PRECONDITION_FAILED - queue '$queue' in vhost '/' in use" amqp-delete-queue -u "$url" -q "$queue" --if-unused
}

# A consumer in the background; it is there once it has written the message sent to it.
start_consumer() {
  amqp-consume -u "$url" -q "$queue" "$@" > "$scratch/consumed" 2>&1 &
  put -b "are you there"
  until_true "the consumer is there" has_lines "$scratch/consumed" 1
}

case_route/default() {
  declare_queue
  put -b "by name"
  equal "get" "$(take)" "by name"
}

# What a queue bound to EXCHANGE with BINDING gets of a message with KEY and of one with another key.
bound_through() {
  local exchange=$1 binding=$2 key=$3
  # With -e amqp-consume declares the queue itself, auto-delete.
  amqp-consume -u "$url" -q "conformance-$$" -e "$exchange" -r "$binding" cat > "$scratch/bound" 2>&1 &
  arrived() {
    amqp-publish -u "$url" -e "$exchange" -r "$key" -b "$1" && grep -q "$1" "$scratch/bound"
  }
  until_true "the queue is bound" arrived "bound"
  amqp-publish -u "$url" -e "$exchange" -r "not-$key" -b "elsewhere"
  until_true "the last message" arrived "last"
  grep -q "elsewhere" "$scratch/bound" && fail "got a message with another key"
  return 0
}

case_route/direct() {
  bound_through amq.direct "red-$$" "red-$$"
}

case_route/topic() {
  bound_through amq.topic "order-$$.*.#" "order-$$.new.eu"
}

case_route/bad-exchange() {
  refused "NOT_FOUND - no exchange 'missing-$$' in vhost '/'" amqp-publish -u "$url" -e "missing-$$" -r key -b body
}

case_basic.consume/missing-queue() {
  refused "NOT_FOUND - no queue 'missing-$$' in vhost '/'" amqp-consume -u "$url" -q "missing-$$" cat
}

case_basic.get/missing-queue() {
  refused "NOT_FOUND - no queue 'missing-$$' in vhost '/'" amqp-get -u "$url" -q "missing-$$"
}

case_basic.get/empty() {
  declare_queue
  take > "$scratch/nothing"
  equal "exit code of amqp-get on an empty queue" "$?" "2"
}

case_basic.consume/order() {
  declare_queue
  seq 1 200 | amqp-publish -u "$url" -r "$queue" -l || fail "amqp-publish -l failed"
  equal "consumed" "$(amqp-consume -u "$url" -q "$queue" -c 200 cat)" "$(seq 1 200)"
}

case_basic.consume/no-ack() {
  declare_queue
  seq 1 50 | amqp-publish -u "$url" -r "$queue" -l || fail "amqp-publish -l failed"
  equal "consumed" "$(amqp-consume -u "$url" -q "$queue" -A -c 50 cat)" "$(seq 1 50)"
  take > "$scratch/nothing"
  equal "exit code of amqp-get afterwards" "$?" "2"
}

case_basic.qos/per-consumer() {
  declare_queue
  seq 1 5 | amqp-publish -u "$url" -r "$queue" -l || fail "amqp-publish -l failed"
  mkfifo "$scratch/gate"
  amqp-consume -u "$url" -q "$queue" -p 2 -- sh -c "cat; cat '$scratch/gate' > '$scratch/opened'" > "$scratch/consumed" 2>&1 &
  until_true "the first delivery" has_lines "$scratch/consumed" 1
  # It holds one and has one waiting; the others are still in the queue.
  equal "what others find" "$(take)$(take)$(take)" "345"
  take > "$scratch/nothing"
  equal "exit code of amqp-get when all are held" "$?" "2"
}

case_basic.consume/competing() {
  declare_queue
  amqp-consume -u "$url" -q "$queue" -p 1 cat > "$scratch/one" 2>&1 &
  amqp-consume -u "$url" -q "$queue" -p 1 cat > "$scratch/two" 2>&1 &
  seq 1 100 | amqp-publish -u "$url" -r "$queue" -l || fail "amqp-publish -l failed"
  all_consumed() { [ "$(cat "$scratch/one" "$scratch/two" | wc -l)" -eq 100 ]; }
  until_true "100 deliveries" all_consumed
  equal "consumed" "$(sort -n "$scratch/one" "$scratch/two")" "$(seq 1 100)"
}

case_heartbeat/idle-survives() {
  declare_queue
  amqp-consume -u "$url" --heartbeat 2 -q "$queue" -c 1 cat > "$scratch/consumed" 2>&1 &
  consumer=$!
  # Six seconds pass; that it is still connected is what this case is about.
  read -r -t 6 <> <(:) || true
  kill -0 "$consumer" 2>/dev/null || fail "the idle consumer left: $(cat "$scratch/consumed")"
  put -b "still there"
  wait "$consumer"
  equal "consumed" "$(cat "$scratch/consumed")" "still there"
}

case_body/empty() {
  declare_queue
  put -b ""
  take > "$scratch/body" || fail "no message"
  equal "size of the body" "$(stat -c %s "$scratch/body")" "0"
}

case_body/16MiB() {
  declare_queue
  head -c 16777216 /dev/urandom > "$scratch/sent"
  amqp-publish -u "$url" -r "$queue" < "$scratch/sent" || fail "amqp-publish failed"
  until_true "the message is there" sh -c "amqp-get -u '$url' -q '$queue' > '$scratch/body'"
  cmp "$scratch/sent" "$scratch/body" || fail "16 MiB came back changed"
}

case_story/image-work-queue() {
  declare_queue -d
  seq 1 20 > "$scratch/images"
  # The first worker takes a task and never ends with it.
  mkfifo "$scratch/never"
  amqp-consume -u "$url" -q "$queue" -p 1 -- sh -c "cat; cat '$scratch/never' > '$scratch/opened'" > "$scratch/held" 2>&1 &
  slow=$!
  amqp-publish -u "$url" -r "$queue" -p -l < "$scratch/images" || fail "amqp-publish failed"
  until_true "the first worker has a task" has_lines "$scratch/held" 1
  amqp-consume -u "$url" -q "$queue" -p 1 cat > "$scratch/one" 2>&1 &
  amqp-consume -u "$url" -q "$queue" -p 1 cat > "$scratch/two" 2>&1 &
  done_by_others() { [ "$(cat "$scratch/one" "$scratch/two" | wc -l)" -eq "$1" ]; }
  until_true "19 tasks done" done_by_others 19
  kill -9 "$slow"
  until_true "20 tasks done" done_by_others 20
  equal "done" "$(sort -n "$scratch/one" "$scratch/two")" "$(cat "$scratch/images")"
}

clean_up() {
  local job
  for job in $(jobs -p); do
    kill "$job" 2>/dev/null
  done
  for queue in $queues; do
    amqp-delete-queue -u "$url" -q "$queue" > "$scratch/deleted" 2>&1 || cat "$scratch/deleted" >&2
  done
  rm -rf "$scratch"
}

case $1 in
  cases)
    compgen -A function case_ | sed 's/^case_/case /'
    without
    ;;
  run)
    url=$3 queues=""
    host=${url#*@} host=${host%%/*} port=${host##*:} host=${host%%:*}
    scratch=$(mktemp -d)
    trap clean_up EXIT
    "case_$2"
    ;;
esac

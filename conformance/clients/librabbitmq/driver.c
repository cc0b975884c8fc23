// rabbitmq-c as a library: what the command line tools built on it cannot say.
//
// needs:    cc /usr/include/amqp.h
// apt:      gcc libc6-dev librabbitmq-dev
// build:    cc -std=gnu11 -Wall -Wextra -Werror -Wno-missing-field-initializers -o "$WORK/driver" "$DIR"/*.c -lrabbitmq
// run:      "$WORK/driver"
#include <stdio.h>
#include <string.h>

#include "cases.h"
#include "world.h"

static const Case *const ALL[] = {RULE_CASES, TOPOLOGY_CASES};

int main(int count, char **arguments) {
  bool is_run = count == 4 && strcmp(arguments[1], "run") == 0;
  for (size_t file = 0; file < sizeof ALL / sizeof *ALL; file++)
    for (const Case *known = ALL[file]; known->name; known++) {
      if (!is_run) {
        printf("case %s%s%s\n", known->name, known->need ? " needs " : "", known->need ? known->need : "");
      } else if (strcmp(known->name, arguments[2]) == 0) {
        broker_url = arguments[3];
        known->run();
        clean_up();
        return 0;
      }
    }
  if (is_run) fail("no such case: %s", arguments[2]);
  return 0;
}

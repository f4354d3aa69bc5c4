/* Fork handlers: see fork.h. */
#include "fork.h"

#include <pthread.h>
#include <stddef.h>

#include "lock.h"

static pthread_mutex_t owners_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t started = PTHREAD_ONCE_INIT;
static struct fork_owner *owners;

static void before(void) {
    pthread_mutex_lock(&owners_mutex);
    for (struct fork_owner *o = owners; o != NULL; o = o->next) {
        o->take(o);
    }
}

static void in_parent(void) {
    for (struct fork_owner *o = owners; o != NULL; o = o->next) {
        o->give(o);
    }
    pthread_mutex_unlock(&owners_mutex);
}

static void in_child(void) {
    for (struct fork_owner *o = owners; o != NULL; o = o->next) {
        o->child(o);
    }
    pthread_mutex_unlock(&owners_mutex);
}

static void start(void) {
    pthread_atfork(before, in_parent, in_child);
}

void fork_start(void) {
    pthread_once(&started, start);
}

void fork_register(struct fork_owner *o) {
    pthread_mutex_lock(&owners_mutex);
    o->next = owners;
    o->link = &owners;
    if (o->next != NULL) {
        o->next->link = &o->next;
    }
    owners = o;
    pthread_mutex_unlock(&owners_mutex);
}

void fork_forget(struct fork_owner *o) {
    pthread_mutex_lock(&owners_mutex);
    *o->link = o->next;
    if (o->next != NULL) {
        o->next->link = o->link;
    }
    pthread_mutex_unlock(&owners_mutex);
}

/* Counts the moments of a call, and does harm at one of them: an allocation or a call fails, or a signal arrives.
 *
 * A moment is an allocation (Python's three domains, and malloc of headway's C code), a byte code of headway's Python code, a call
 * of the C code into libc that may block, or one into CPython that may run Python code. Python's allocations are seen by way of PyMem_SetAllocator, the byte codes by a trace
 * function, and what the C code calls by way of its global offset table: the entries of `_core` and of libhiredis for malloc, poll
 * and others are replaced by functions of this file. So nothing is preloaded, and the interpreter's own mallocs are left alone. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <frameobject.h>
#include <link.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ALLOCATION = 1, BYTE_CODE = 2, CALL = 4, PYTHON_CALL = 8 };
enum harm { COUNT, FAIL, SIGNAL };

static struct {
    atomic_bool armed;
    enum harm harm;
    int kinds;        /* which moments count */
    bool own;         /* of the allocations, only those that the C code asks for without Python code in between */
    pthread_t thread; /* the thread that counts; with `own`, all threads do */
    long from, until; /* the moments of the harm, counted from 1 */
    atomic_long seen, done;
} now;

static _Thread_local bool busy;
static void *stack[40]; /* of the last moment of harm */
static int stack_depth;
static atomic_long live[4]; /* blocks: raw, mem, obj, malloc of the C code */
static uintptr_t core_base, core_start, core_end;

/* --- whose allocation this is */

enum asker { UNKNOWN, OTHER, CORE, EVAL };
static struct {
    void *address;
    enum asker asker;
} known[4096];

/* Python code, or an event loop that the C code has called. */
static bool is_other(const Dl_info *info) {
    return (info->dli_sname != NULL && strcmp(info->dli_sname, "_PyEval_EvalFrameDefault") == 0) ||
           (info->dli_fname != NULL && (strstr(info->dli_fname, "_asyncio.") != NULL || strstr(info->dli_fname, "/uvloop/") != NULL));
}

static enum asker asker_of(void *address) {
    size_t i = ((uintptr_t)address >> 2) % 4096;
    if (known[i].address != address || known[i].asker == UNKNOWN) {
        Dl_info info;
        enum asker a = OTHER;
        if ((uintptr_t)address >= core_start && (uintptr_t)address < core_end) {
            a = CORE;
        } else if (dladdr(address, &info) && is_other(&info)) {
            a = EVAL;
        }
        known[i].address = address;
        known[i].asker = a;
    }
    return known[i].asker;
}

static bool asked_by_core(void) {
    void *frames[32];
    int count = backtrace(frames, 32);
    for (int i = 2; i < count; i++) {
        enum asker a = asker_of(frames[i]);
        if (a == CORE || a == EVAL) {
            return a == CORE;
        }
    }
    return false;
}

/* --- a moment */

/* Whether what asks has to fail. */
static bool moment(int kind) {
    if (!atomic_load_explicit(&now.armed, memory_order_relaxed) || busy || !(now.kinds & kind)) {
        return false;
    }
    if (!now.own && !pthread_equal(pthread_self(), now.thread)) {
        return false;
    }
    int saved = errno;
    busy = true;
    bool hit = false;
    if (kind != ALLOCATION || !now.own || asked_by_core()) {
        long n = atomic_fetch_add(&now.seen, 1) + 1;
        hit = now.harm != COUNT && n >= now.from && n < now.until;
    }
    if (hit) {
        atomic_fetch_add(&now.done, 1);
        stack_depth = backtrace(stack, 40);
        if (now.harm == SIGNAL) {
            if (kind == CALL) {
                pthread_kill(pthread_self(), SIGUSR1);
            } else {
                PyErr_SetInterruptEx(SIGUSR1);
            }
        }
    }
    busy = false;
    errno = saved;
    return hit && now.harm == FAIL && (kind == ALLOCATION || kind == PYTHON_CALL);
}

/* --- Python's allocators */

static PyMemAllocatorEx inner[3];

static void *py_malloc(void *which, size_t size) {
    PyMemAllocatorEx *a = which;
    void *p = moment(ALLOCATION) ? NULL : a->malloc(a->ctx, size);
    atomic_fetch_add(&live[a - inner], p != NULL);
    return p;
}

static void *py_calloc(void *which, size_t count, size_t size) {
    PyMemAllocatorEx *a = which;
    void *p = moment(ALLOCATION) ? NULL : a->calloc(a->ctx, count, size);
    atomic_fetch_add(&live[a - inner], p != NULL);
    return p;
}

static void *py_realloc(void *which, void *old, size_t size) {
    PyMemAllocatorEx *a = which;
    void *p = moment(ALLOCATION) ? NULL : a->realloc(a->ctx, old, size);
    atomic_fetch_add(&live[a - inner], p != NULL && old == NULL);
    return p;
}

static void py_free(void *which, void *p) {
    PyMemAllocatorEx *a = which;
    atomic_fetch_sub(&live[a - inner], p != NULL);
    a->free(a->ctx, p);
}

/* --- what the C code calls */

static void *c_malloc(size_t size) {
    void *p = NULL;
    if (moment(ALLOCATION)) {
        errno = ENOMEM;
    } else {
        p = malloc(size);
    }
    atomic_fetch_add(&live[3], p != NULL);
    return p;
}

static void *c_calloc(size_t count, size_t size) {
    void *p = NULL;
    if (moment(ALLOCATION)) {
        errno = ENOMEM;
    } else {
        p = calloc(count, size);
    }
    atomic_fetch_add(&live[3], p != NULL);
    return p;
}

static void *c_realloc(void *old, size_t size) {
    void *p = NULL;
    if (moment(ALLOCATION)) {
        errno = ENOMEM;
    } else {
        p = realloc(old, size);
    }
    atomic_fetch_add(&live[3], p != NULL && old == NULL);
    return p;
}

static void c_free(void *p) {
    atomic_fetch_sub(&live[3], p != NULL);
    free(p);
}

static void *c_aligned_alloc(size_t alignment, size_t size) {
    void *p = NULL;
    if (moment(ALLOCATION)) {
        errno = ENOMEM;
    } else {
        p = aligned_alloc(alignment, size);
    }
    atomic_fetch_add(&live[3], p != NULL);
    return p;
}

static char *c_strdup(const char *text) {
    size_t size = strlen(text) + 1;
    char *p = c_malloc(size);
    return p == NULL ? NULL : memcpy(p, text, size);
}

static void *c_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    if (moment(ALLOCATION)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return mmap(address, size, protection, flags, fd, offset);
}

static int c_poll(struct pollfd *fds, nfds_t count, int timeout) {
    moment(CALL);
    return poll(fds, count, timeout);
}

static ssize_t c_recv(int fd, void *bytes, size_t length, int flags) {
    moment(CALL);
    return recv(fd, bytes, length, flags);
}

static ssize_t c_send(int fd, const void *bytes, size_t length, int flags) {
    moment(CALL);
    return send(fd, bytes, length, flags);
}

static int c_connect(int fd, const struct sockaddr *address, socklen_t length) {
    moment(CALL);
    return connect(fd, address, length);
}

static long c_syscall(long number, long a, long b, long c, long d, long e, long f) {
    moment(CALL);
    return syscall(number, a, b, c, d, e, f);
}

/* --- calls of the C code that may run Python code: each fails as one does whose Python code raises an exception that no code knows */

static bool python_call_fails(void) {
    if (PyErr_Occurred() || !moment(PYTHON_CALL)) {
        return false;
    }
    PyErr_SetString(PyExc_ZeroDivisionError, "torment");
    return true;
}

#define FAILING(type, failed, name, parameters, arguments)                                                             \
    static type x_##name parameters {                                                                                  \
        return python_call_fails() ? failed : name arguments;                                                          \
    }
FAILING(PyObject *, NULL, PyObject_Call, (PyObject * f, PyObject *a, PyObject *k), (f, a, k))
FAILING(PyObject *, NULL, PyObject_CallObject, (PyObject * f, PyObject *a), (f, a))
FAILING(PyObject *, NULL, PyObject_GetAttr, (PyObject * o, PyObject *n), (o, n))
FAILING(PyObject *, NULL, PyObject_GetAttrString, (PyObject * o, const char *n), (o, n))
FAILING(int, -1, PyObject_SetAttrString, (PyObject * o, const char *n, PyObject *v), (o, n, v))
FAILING(Py_hash_t, -1, PyObject_Hash, (PyObject * o), (o))
FAILING(int, -1, PyObject_IsTrue, (PyObject * o), (o))
FAILING(int, -1, PyObject_IsInstance, (PyObject * o, PyObject *c), (o, c))
FAILING(PyObject *, NULL, PyObject_RichCompare, (PyObject * a, PyObject *b, int op), (a, b, op))
FAILING(int, -1, PyObject_RichCompareBool, (PyObject * a, PyObject *b, int op), (a, b, op))
FAILING(PyObject *, NULL, PyObject_Str, (PyObject * o), (o))
FAILING(PyObject *, NULL, PyObject_Repr, (PyObject * o), (o))
FAILING(PyObject *, NULL, PyNumber_Index, (PyObject * o), (o))
FAILING(PyObject *, NULL, PySequence_Tuple, (PyObject * o), (o))
FAILING(PyObject *, NULL, PySequence_List, (PyObject * o), (o))
FAILING(PyObject *, NULL, PyImport_ImportModule, (const char *n), (n))
FAILING(PyObject *, NULL, PyDict_GetItemWithError, (PyObject * d, PyObject *k), (d, k))
FAILING(int, -1, PyDict_SetItem, (PyObject * d, PyObject *k, PyObject *v), (d, k, v))
FAILING(PyObject *, NULL, PyObject_CallNoArgs, (PyObject * f), (f))
FAILING(PyObject *, NULL, PyObject_CallOneArg, (PyObject * f, PyObject *a), (f, a))
FAILING(PyObject *, NULL, PyObject_VectorcallMethod, (PyObject * n, PyObject *const *a, size_t c, PyObject *k), (n, a, c, k))
#if PY_VERSION_HEX >= 0x030c0000 || !defined(Py_LIMITED_API)
FAILING(PyObject *, NULL, PyObject_Vectorcall, (PyObject * f, PyObject *const *a, size_t c, PyObject *k), (f, a, c, k))
#endif

/* The first argument, and up to eight more, which these take as they are. */
#define FAILING_VARIADIC(name)                                                                                         \
    static PyObject *x_##name(void *a, void *b, void *c, void *d, void *e, void *f, void *g, void *h, void *i) {       \
        PyObject *(*function)(void *, ...) = (PyObject * (*)(void *, ...)) name;                                       \
        return python_call_fails() ? NULL : function(a, b, c, d, e, f, g, h, i);                                       \
    }
extern PyObject *_PyObject_CallMethod_SizeT(PyObject *, const char *, const char *, ...);
extern PyObject *_PyObject_CallFunction_SizeT(PyObject *, const char *, ...);
FAILING_VARIADIC(_PyObject_CallMethod_SizeT)
FAILING_VARIADIC(_PyObject_CallFunction_SizeT)
FAILING_VARIADIC(PyObject_CallFunctionObjArgs)

#define HOOK(name) {#name, (void *)x_##name}

static const struct {
    const char *name;
    void *function;
} hooks[] = {
    HOOK(PyObject_Call), HOOK(PyObject_CallObject), HOOK(PyObject_GetAttr), HOOK(PyObject_GetAttrString),
    HOOK(PyObject_SetAttrString), HOOK(PyObject_Hash), HOOK(PyObject_IsTrue), HOOK(PyObject_IsInstance),
    HOOK(PyObject_RichCompare), HOOK(PyObject_RichCompareBool), HOOK(PyObject_Str), HOOK(PyObject_Repr),
    HOOK(PyNumber_Index), HOOK(PySequence_Tuple), HOOK(PySequence_List), HOOK(PyImport_ImportModule),
    HOOK(PyDict_GetItemWithError), HOOK(PyDict_SetItem), HOOK(PyObject_CallNoArgs), HOOK(PyObject_CallOneArg),
    HOOK(PyObject_VectorcallMethod), HOOK(PyObject_Vectorcall), HOOK(_PyObject_CallMethod_SizeT),
    HOOK(_PyObject_CallFunction_SizeT), HOOK(PyObject_CallFunctionObjArgs),
    {"malloc", (void *)c_malloc}, {"calloc", (void *)c_calloc},   {"realloc", (void *)c_realloc}, {"free", (void *)c_free},
    {"poll", (void *)c_poll},     {"recv", (void *)c_recv},       {"send", (void *)c_send},       {"connect", (void *)c_connect},
    {"syscall", (void *)c_syscall},
    {"aligned_alloc", (void *)c_aligned_alloc}, {"strdup", (void *)c_strdup}, {"mmap", (void *)c_mmap},
};

static int replaced;

static void replace(const struct dl_phdr_info *object, const ElfW(Rela) * relocations, size_t size, const ElfW(Sym) * symbols,
                    const char *names) {
    for (size_t i = 0; i < size / sizeof *relocations; i++) {
        const char *name = names + symbols[ELF64_R_SYM(relocations[i].r_info)].st_name;
        for (size_t h = 0; h < sizeof hooks / sizeof *hooks; h++) {
            if (strcmp(name, hooks[h].name) == 0) {
                uintptr_t slot = object->dlpi_addr + relocations[i].r_offset, page = (uintptr_t)getpagesize();
                if (mprotect((void *)(slot & ~(page - 1)), page, PROT_READ | PROT_WRITE) == 0) {
                    *(void **)slot = hooks[h].function;
                    replaced++;
                }
            }
        }
    }
}

static int visit(struct dl_phdr_info *object, size_t size, void *unused) {
    (void)size, (void)unused;
    bool core = strstr(object->dlpi_name, "headway/_core") != NULL;
    if (!core && strstr(object->dlpi_name, "libhiredis") == NULL) {
        return 0;
    }
    const ElfW(Dyn) *dynamic = NULL;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &object->dlpi_phdr[i];
        if (h->p_type == PT_DYNAMIC) {
            dynamic = (const void *)(object->dlpi_addr + h->p_vaddr);
        } else if (core && h->p_type == PT_LOAD && (h->p_flags & PF_X)) {
            core_base = object->dlpi_addr;
            core_start = object->dlpi_addr + h->p_vaddr;
            core_end = core_start + h->p_memsz;
        }
    }
    uintptr_t part[40] = {0};
    for (; dynamic != NULL && dynamic->d_tag != DT_NULL; dynamic++) {
        if (dynamic->d_tag < 40) {
            part[dynamic->d_tag] = dynamic->d_un.d_ptr;
        }
    }
    static const int addresses[] = {DT_SYMTAB, DT_STRTAB, DT_JMPREL, DT_RELA};
    for (size_t i = 0; i < 4; i++) {
        if (part[addresses[i]] != 0 && part[addresses[i]] < object->dlpi_addr) { /* musl leaves them relative */
            part[addresses[i]] += object->dlpi_addr;
        }
    }
    replace(object, (void *)part[DT_JMPREL], part[DT_PLTRELSZ], (void *)part[DT_SYMTAB], (void *)part[DT_STRTAB]);
    replace(object, (void *)part[DT_RELA], part[DT_RELASZ], (void *)part[DT_SYMTAB], (void *)part[DT_STRTAB]);
    return 0;
}

static PyObject *install(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    void *frame;
    backtrace(&frame, 1); /* loads what it needs */
    static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
    if (inner[0].malloc == NULL) {
        for (int i = 0; i < 3; i++) {
            PyMem_GetAllocator(domains[i], &inner[i]);
        }
        for (int i = 0; i < 3; i++) {
            PyMemAllocatorEx outer = {&inner[i], py_malloc, py_calloc, py_realloc, py_free};
            PyMem_SetAllocator(domains[i], &outer);
        }
        dl_iterate_phdr(visit, NULL);
    }
    return PyLong_FromLong(replaced);
}

/* --- byte codes of headway's Python code */

static int trace(PyObject *unused, PyFrameObject *frame, int what, PyObject *argument) {
    (void)unused, (void)argument;
    if (busy || !atomic_load(&now.armed)) {
        return 0;
    }
    busy = true;
    PyObject *type, *value, *where;
    PyErr_Fetch(&type, &value, &where);
    PyCodeObject *code = PyFrame_GetCode(frame);
    const char *file = PyUnicode_AsUTF8(code->co_filename);
    bool own = file != NULL && strstr(file, "/headway/") != NULL && strstr(file, "/tests/") == NULL;
    if (what == PyTrace_CALL && own && PyObject_SetAttrString((PyObject *)frame, "f_trace_opcodes", Py_True) < 0) {
        PyErr_Clear();
    }
    Py_DECREF(code);
    PyErr_Restore(type, value, where);
    busy = false;
    if (own && (what == PyTrace_OPCODE || what == PyTrace_CALL || what == PyTrace_RETURN)) {
        moment(BYTE_CODE);
    }
    return 0;
}

/* --- the call */

/* run(function, harm, kinds, own, from, until) -> (value or None, exception or None, moments seen, moments of harm) */
static PyObject *run(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *function;
    int harm, kinds, own;
    long from, until;
    if (!PyArg_ParseTuple(arguments, "Oiipll", &function, &harm, &kinds, &own, &from, &until)) {
        return NULL;
    }
    now.harm = (enum harm)harm;
    now.kinds = kinds;
    now.own = own;
    now.from = from;
    now.until = until;
    now.thread = pthread_self();
    atomic_store(&now.seen, 0);
    atomic_store(&now.done, 0);
    if (kinds & BYTE_CODE) {
        PyEval_SetTrace(trace, NULL);
    }
    atomic_store(&now.armed, true);
    PyObject *value = PyObject_CallNoArgs(function);
    atomic_store(&now.armed, false);
    PyObject *type = NULL, *error = NULL, *where = NULL;
    bool silent = value == NULL && !PyErr_Occurred();
    bool both = value != NULL && PyErr_Occurred();
    PyErr_Fetch(&type, &error, &where);
    PyErr_NormalizeException(&type, &error, &where);
    if (where != NULL && error != NULL) {
        PyException_SetTraceback(error, where);
    }
    Py_XDECREF(type);
    Py_XDECREF(where);
    if (kinds & BYTE_CODE) {
        PyEval_SetTrace(NULL, NULL);
    }
    if (silent || both) {
        Py_XDECREF(value);
        Py_XDECREF(error);
        PyErr_SetString(PyExc_AssertionError, silent ? "NULL without an exception" : "a value with an exception");
        return NULL;
    }
    return Py_BuildValue("NNll", value != NULL ? value : Py_NewRef(Py_None), error != NULL ? error : Py_NewRef(Py_None),
                         atomic_load(&now.seen), atomic_load(&now.done));
}

/* In a forked child the call goes on, without harm. */
static PyObject *disarm(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    atomic_store(&now.armed, false);
    Py_RETURN_NONE;
}

static PyObject *blocks(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    long python = live[0] + live[1] + live[2], c = live[3];
    return Py_BuildValue("ll", python, c);
}

static PyObject *where(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < stack_depth; i++) {
        uintptr_t address = (uintptr_t)stack[i];
        if (address >= core_start && address < core_end) {
            PyObject *offset = PyLong_FromUnsignedLongLong(address - core_base - 1);
            if (offset == NULL || PyList_Append(list, offset) < 0) {
                Py_CLEAR(list);
            }
            Py_XDECREF(offset);
        }
    }
    return list;
}

static PyObject *library(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    for (int i = 2; i < stack_depth; i++) {
        Dl_info info;
        if (dladdr(stack[i], &info) && info.dli_fname != NULL && strstr(info.dli_fname, "libpython") == NULL &&
            strstr(info.dli_fname, "/libc") == NULL) {
            return PyUnicode_DecodeFSDefault(info.dli_fname);
        }
    }
    return PyUnicode_FromString("");
}

static PyMethodDef methods[] = {
    {"install", install, METH_NOARGS, "Take over the allocators and headway's calls; how many entries were replaced."},
    {"run", run, METH_VARARGS, "Call a function, with harm at some moments."},
    {"disarm", disarm, METH_NOARGS, "No more harm in this run."},
    {"where", where, METH_NOARGS, "The last harm's stack: offsets into the compiled module, innermost first."},
    {"library", library, METH_NOARGS, "The innermost library of the last harm's stack, besides Python's and C's."},
    {"blocks", blocks, METH_NOARGS, "Blocks that are allocated: Python's, and the C code's."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_moments", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__moments(void) {
    return PyModule_Create(&definition);
}

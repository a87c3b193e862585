/*
 * Lets user-mode Linux run on processors with a larger register state than it knows.
 *
 * It reads and writes its processes' registers with ptrace, in a buffer that ends behind AVX-512. Since Linux 5.16
 * setting them takes the whole state or nothing, so that on a processor with AMX it fails with EFAULT. Here what is
 * missing is taken from the process itself: none uses it without asking the kernel, which the guest does not.
 *
 *     cc -shared -fPIC -o xstate.so xstate.c && LD_PRELOAD=./xstate.so linux.uml ...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NT_X86_XSTATE 0x202

static long set_state(long pid, struct iovec *part)
{
    static char bytes[65536];
    struct iovec whole = { bytes, sizeof bytes };

    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
        return -1;
    if (whole.iov_len <= part->iov_len)
        return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, part);
    memcpy(bytes, part->iov_base, part->iov_len);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list args;
    va_start(args, request);
    long pid = va_arg(args, long);
    void *addr = va_arg(args, void *), *data = va_arg(args, void *);
    va_end(args);

    if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE)
        return set_state(pid, data);
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        /* The system call stores the word; the function returns it. */
        long word = 0;
        if (syscall(SYS_ptrace, request, pid, addr, &word) < 0)
            return -1;
        errno = 0;
        return word;
    }
    return syscall(SYS_ptrace, request, pid, addr, data);
}

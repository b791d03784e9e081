/*
 * tap.h - TAP for C tests: include once in each test program; main calls done_testing() last.
 */
#ifndef TAP_H
#define TAP_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tap_n, tap_bad;

__attribute__((format(printf, 2, 3), unused)) static int
ok(int pass, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    printf("%sok %d - ", pass ? "" : "not ", ++tap_n);
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
    tap_bad += !pass;
    return pass;
}

__attribute__((unused)) static int
is_int(long long got, long long want, const char *name)
{
    int pass = ok(got == want, "%s", name);
    if (!pass) {
        printf("#   got %lld, want %lld\n", got, want);
    }
    return pass;
}

__attribute__((unused)) static int
is_str(const char *got, const char *want, const char *name)
{
    int pass = ok(got != NULL && strcmp(got, want) == 0, "%s", name);
    if (!pass) {
        printf("#   got  '%s'\n#   want '%s'\n", got ? got : "(null)", want);
    }
    return pass;
}

/* |got - want| <= tol; NaN never passes */
__attribute__((unused)) static int
near(double got, double want, double tol, const char *name)
{
    int pass = ok(fabs(got - want) <= tol, "%s", name);
    if (!pass) {
        printf("#   got %.9g, want %.9g, off by %.3g > %.3g\n", got, want, fabs(got - want), tol);
    }
    return pass;
}

__attribute__((format(printf, 1, 2), unused)) static void
diag(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    printf("# ");
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
}

__attribute__((unused)) static int
done_testing(void)
{
    printf("1..%d\n", tap_n);
    return tap_bad != 0;
}

#endif

/* An empty Python module around the scan: the package build compiles and finds it, ctypes calls it (and so releases
   the interpreter lock). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* 4: AVX-512 as in x86-64-v4, 3: AVX2 and FMA as in x86-64-v3, 0: neither. */
int cpu_level(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 4;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return 3;
#endif
    return 0;
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "scan", .m_size = 0};

#define JOIN(a, b) a##b
#define INIT(name) JOIN(PyInit_, name)

PyMODINIT_FUNC INIT(MODULE)(void) { return PyModuleDef_Init(&definition); }

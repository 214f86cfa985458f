'use strict';

// Light or dark as the reader's system is, until the button says otherwise.
const root = document.documentElement;
const button = document.getElementById('scheme');
const system = matchMedia('(prefers-color-scheme: dark)');
let chosen = localStorage.getItem('scheme');

function paint() {
  const dark = chosen ? chosen === 'dark' : system.matches;
  root.classList.toggle('dark-mode', dark);
  button.textContent = dark ? 'Light' : 'Dark';
}
button.addEventListener('click', () => {
  chosen = root.classList.contains('dark-mode') ? 'light' : 'dark';
  localStorage.setItem('scheme', chosen);
  paint();
});
system.addEventListener('change', paint);
paint();

addEventListener('DOMContentLoaded', () => {
  SwaggerUIBundle({
    url: '/api/openapi.json',
    dom_id: '#document',
    deepLinking: true,
    filter: true,
    docExpansion: 'list',
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    showCommonExtensions: true,
    validatorUrl: null,
  });
});
